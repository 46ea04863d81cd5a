"""Levels and pooling of regions, and what a two-stage detector gives in training and in evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bifocals.assign import MaxIoU, Sampled
from bifocals.check import check_network
from bifocals.networks import (
    FPN,
    RPN,
    Backbone,
    BoxHead,
    ProposalChoice,
    RoIAlign,
    TwoStageDetector,
    build_backbone,
    roi_levels,
)
from bifocals.objective import Objective
from bifocals.predict import RoIPostprocess
from bifocals.recipes.two_stage import RPNHead, roi_branch, rpn_branch
from bifocals.structures import Match, Target

ASSIGNER = Sampled(MaxIoU(0.5, 0.5, False, 0.5, padding=None), 16, 0.25)


def squares(*sides: float) -> Tensor:
    return torch.tensor([[10.0, 10, 10 + s, 10 + s] for s in sides])


def test_levels_by_hand():
    sides = squares(0, 3, 56, 111, 112, 223, 224, 447, 448, 5000)
    assert roi_levels(sides, 4).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert roi_levels(sides, 2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert roi_levels(torch.tensor([[0.0, 0, 56, 224], [0, 0, 55, 224]]), 4).tolist() == [1, 0]  # by area


def test_a_power_of_two_belongs_to_the_larger_level_whatever_the_rounding():
    low = torch.arange(200) * 0.37
    boxes = torch.stack([low, low, low + 112, low + 112], dim=1)
    sides = boxes[:, 2] - boxes[:, 0]
    assert float(sides.min()) < 112 < float(sides.max())  # in float32
    assert roi_levels(boxes, 4).unique().tolist() == [1]


def test_each_region_is_pooled_from_its_level_and_image():
    levels = [torch.full((2, 3, 256 // s, 256 // s), 10.0 * i) for i, s in enumerate((4, 8, 16, 32, 64))]
    for level in levels:
        level[1] += 1
    rois, image = squares(230, 20, 120, 20, 60), torch.tensor([0, 1, 1, 0, 1])
    pooled = RoIAlign(size=2)(levels, rois, image)
    assert pooled.shape == (5, 3, 2, 2)
    assert pooled[:, 0, 0, 0].tolist() == [20, 1, 11, 0, 1] and bool((pooled == pooled[:, :1, :1, :1]).all())


def test_aligned_pooling_knows_the_center_of_a_pixel():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)  # pixel i of stride 4 lies at x = 4 i + 2
    roi, image = torch.tensor([[16.0, 16, 44, 44]]), torch.zeros(1, dtype=torch.int64)
    cells = torch.arange(7) * 4 + 18.0  # centers of the cells
    torch.testing.assert_close(RoIAlign((4,))([ramp], roi, image)[0, 0, 3], (cells - 2) / 4)
    # torchvision's pooling takes x = 4 i for it.
    torch.testing.assert_close(RoIAlign((4,), 7, 2, aligned=False)([ramp], roi, image)[0, 0, 3], cells / 4)


def test_pooling_nothing_keeps_the_graph():
    levels = [torch.rand(1, 2, s, s, requires_grad=True) for s in (16, 8, 4, 2)]
    pooled = RoIAlign()(levels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in levels)


def test_the_gradient_of_pooling_goes_to_the_right_place():
    levels = [torch.zeros(2, 1, 64 // s, 64 // s, requires_grad=True) for s in (4, 8, 16, 32)]
    pooled = RoIAlign(size=1)(levels, torch.tensor([[32.0, 32, 60, 60], [0, 0, 8, 8]]), torch.tensor([1, 0]))
    (pooled * torch.tensor([2.0, 3.0])[:, None, None, None]).sum().backward()
    assert levels[0].grad[1].sum() == pytest.approx(2) and levels[0].grad[0].sum() == pytest.approx(3)
    assert levels[0].grad[1, 0, :8].sum() == 0 and levels[1].grad.abs().sum() == 0


def detector(seed: int = 0, assigner=ASSIGNER, **options) -> TwoStageDetector:
    torch.manual_seed(seed)
    body = build_backbone(Backbone("resnet18", "pytorch", "none"))
    neck = FPN(body.channels, 64, "pool")
    choice = options.pop("choice", ProposalChoice(100, 0.7, 50))
    return TwoStageDetector(body, neck, RPN(neck.strides, 64), BoxHead(3, 64, width=32), choice=choice,
                            training_choice=choice, assigner=assigner, **options)


def target(boxes: list[list[float]], size: tuple[int, int] = (64, 96), crowd: tuple[int, ...] = ()) -> Target:
    made = torch.tensor(boxes).reshape(-1, 4)
    marks = torch.zeros(len(made), dtype=torch.bool)
    marks[list(crowd)] = True
    return Target(made, torch.arange(len(made)) % 3, marks, size, size)


def images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


OBJECTS = [[5.0, 5, 30, 40], [40, 10, 90, 60]]


class Spy:
    """Notes the regions it is asked about, and keeps them all."""

    def __init__(self) -> None:
        self.boxes: list[Tensor] = []
        self.targets: list[Target] = []

    def __call__(self, priors, target) -> Match:
        self.boxes.append(priors.boxes)
        self.targets.append(target)
        return MaxIoU(0.5, 0.5, False, padding=None)(priors, target)


def test_contract():
    assert "every learning parameter is used" in check_network(detector)


@pytest.mark.parametrize("place", ["first", "last"])
def test_objects_join_the_proposals(place: str):
    spy = Spy()
    network = detector(assigner=spy, objects=place).train()
    found = network(images(), [target(OBJECTS), target([])])["roi"]
    rows = spy.boxes[0][:2] if place == "first" else spy.boxes[0][-2:]
    assert rows.tolist() == OBJECTS
    pairs = zip(found.matches.prior.tolist(), found.matches.gt.tolist(), strict=True)
    own = {gt for prior, gt in pairs if found.rois[prior].tolist() == OBJECTS[gt]}
    assert own == {0, 1}  # each answers for itself
    assert not (found.matches.image == 1).any()
    assert int((found.image == 1).sum()) == len(spy.boxes[1]) > 0


def test_rows_of_the_match_count_over_the_whole_batch():
    network = detector().train()
    targets = [target([]), target(OBJECTS), target([[1.0, 1, 60, 60]])]
    found = network(images(3), targets)["roi"]
    matches = found.matches
    assert torch.equal(found.image[matches.prior], matches.image)
    for row, i, gt in zip(matches.prior.tolist(), matches.image.tolist(), matches.gt.tolist(), strict=True):
        box = targets[i].boxes[gt]
        low, high = torch.maximum(found.rois[row, :2], box[:2]), torch.minimum(found.rois[row, 2:], box[2:])
        shared = (high - low).clamp(min=0).prod()
        areas = (found.rois[row, 2:] - found.rois[row, :2]).prod() + (box[2:] - box[:2]).prod()
        assert shared / (areas - shared) >= 0.5
    assert int((found.image == 1).sum()) <= 16  # sampled
    assert found.logits.shape == (len(found.rois), 4) and found.deltas.shape == (len(found.rois), 3, 4)


def test_crowd_is_no_object():
    spy = Spy()
    detector(assigner=spy).train()(images(1), [target(OBJECTS, crowd=(0,))])
    assert spy.targets[0].boxes.tolist() == OBJECTS[1:] and spy.boxes[0][0].tolist() == OBJECTS[1]


def test_training_needs_an_assigner():
    network = detector(assigner=None)
    with pytest.raises(ValueError, match="TwoStageDetector expected an assigner for its RoIs in training, got None"):
        network.train()(images(1), [target(OBJECTS)])
    assert network.train()(images(1))["roi"].matches is None  # without targets there is nothing to assign
    assert network.eval()(images(1), [target(OBJECTS)])["roi"].matches is None


def losses(network: TwoStageDetector, targets: list[Target], count: int = 2):
    objective = Objective({"rpn": rpn_branch(RPNHead(samples=32)), "roi": roi_branch()})
    return objective(network(images(count), targets), targets)


@pytest.mark.parametrize("boxes", [[OBJECTS, []], [[], []]])
@pytest.mark.parametrize("proposals", [True, False])
def test_every_parameter_learns_with_few_regions_or_none(boxes, proposals: bool):
    options = {} if proposals else {"choice": ProposalChoice(min_side=1000)}
    network = detector(**options).train()
    targets = [target(b) for b in boxes]
    found = losses(network, targets)
    assert all(bool(v.isfinite()) for v in found.raw.values())
    if not proposals and not any(boxes):
        assert float(found.raw["roi/cls"].detach()) == float(found.raw["roi/box"].detach()) == 0
    found.total.backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_image_without_proposals_has_no_detections():
    network = detector(choice=ProposalChoice(min_side=70)).eval()
    sizes = [target([], (64, 60)), target([], (64, 96))]
    with torch.no_grad():
        found = network(images(), sizes)["roi"]
    assert not (found.image == 0).any()
    first, _ = RoIPostprocess()(found, sizes)
    assert len(first) == 0


def test_a_batch_of_two_equals_two_of_one():
    network = detector().eval()
    sizes = [target([], (64, 96)), target([], (50, 71))]
    with torch.no_grad():
        together = network(images(), sizes)["roi"]
        detections = RoIPostprocess(0.01)(together, sizes)
        for i, size in enumerate(sizes):
            alone = network(images()[i : i + 1], [size])["roi"]
            mine = together.image == i
            torch.testing.assert_close(together.rois[mine], alone.rois, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(together.logits[mine], alone.logits, rtol=1e-3, atol=1e-3)
            same = RoIPostprocess(0.01)(alone, [size])[0]
            torch.testing.assert_close(detections[i].boxes, same.boxes, rtol=1e-4, atol=1e-2)


def test_regions_end_with_their_own_image():
    network = detector().eval()
    with torch.no_grad():
        found = network(images(), [target([], (40, 96)), target([], (64, 50))])["roi"]
        whole = network(images())["roi"]
    first, second = found.rois[found.image == 0], found.rois[found.image == 1]
    assert float(first[:, 3].max()) == 40 and float(first[:, 2].max()) == 96
    assert float(second[:, 3].max()) == 64 and float(second[:, 2].max()) == 50
    assert float(whole.rois[:, 3].max()) == 64  # without targets the canvas is the image


def test_bf16():
    network, targets = detector(), [target(OBJECTS), target([])]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network.train()(images(), targets)
        assert outputs["roi"].logits.dtype == torch.bfloat16
        evaluated = network.eval()(images(), targets)["roi"]
    assert outputs["rpn"].boxes.dtype == outputs["roi"].rois.dtype == torch.float32
    # Pixels of 300 and more have steps of 2 in bfloat16: coordinates stay what they are.
    assert set(outputs["rpn"].priors.points[:, 0].tolist()) >= {float(4 * i) for i in range(24)}
    assert any(r.tolist() == OBJECTS[0] for r in outputs["roi"].rois)
    found = RoIPostprocess(0.01)(evaluated, targets)
    assert all(d.scores.dtype == torch.float32 and bool(d.boxes.isfinite().all()) for d in found)
    roi = replace(outputs["roi"], logits=outputs["roi"].logits.float(), deltas=outputs["roi"].deltas.float())
    total = Objective({"rpn": rpn_branch(), "roi": roi_branch()})({"rpn": outputs["rpn"], "roi": roi}, targets).total
    total.backward()
    assert bool(total.isfinite())


def test_the_pyramid_of_two_stage_detectors():
    neck = FPN((8, 16, 32, 64), 16, "pool")
    features = [torch.rand(1, c, s, s) for c, s in ((8, 40), (16, 20), (32, 10), (64, 5))]
    levels = neck(features)
    assert [x.shape[-1] for x in levels] == [40, 20, 10, 5, 3] and neck.strides == (4, 8, 16, 32, 64)
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])
    with pytest.raises(ValueError, match="FPN with extra 'pool' expected 4 features, got 3"):
        FPN((8, 16, 32), 16, "pool")
