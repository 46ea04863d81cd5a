"""ATSS by hand, beside a plain loop, and on the borders: few anchors, padding, crowd regions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bifocals.assign import ATSS
from bifocals.assign.atss import BatchObjects
from bifocals.check import check_assigner
from bifocals.recipes.atss import ATSSHead, atss_branch
from bifocals.structures import Anchors, Priors, Target, make_points, pairwise_iou

SQUARE = Anchors(8.0, 1, (1.0,))
STRIDES = (8, 16, 32, 64, 128)


def pyramid(height: int, width: int) -> Priors:
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    return SQUARE.at(make_points(sizes, STRIDES))


def objects(*boxes: tuple[float, ...], size: tuple[int, int] = (64, 64)) -> Target:
    made = torch.tensor(boxes).reshape(-1, 4)
    return Target(made, torch.zeros(len(made), dtype=torch.int64), torch.zeros(len(made), dtype=torch.bool), size, size)


def scene(seed: int, number: int, size: tuple[int, int] = (256, 320)) -> Target:
    """Objects of 5 to 250 pixels, the first two equal; of none are two anchors equally far from its center."""
    draw = torch.Generator().manual_seed(seed)
    height, width = size
    center = torch.rand(number, 2, generator=draw) * torch.tensor([width, height])
    half = torch.exp(torch.rand(number, 2, generator=draw) * 4 + 1)
    boxes = torch.cat([center - half, center + half], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0.7, width - 2.9)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(1.1, height - 3.7)
    boxes[1:2] = boxes[:1]
    return objects(*map(tuple, boxes.tolist()), size=size)


@pytest.mark.parametrize("assigner", [ATSS(), ATSS(2, padding=None), ATSS(crowd_overlap=0.5)])
def test_contract(assigner: ATSS):
    held = check_assigner(assigner)
    assert "the order of objects does not matter" in held and "a batch equals its images one by one" in held


def line(*boxes: tuple[float, ...]) -> Priors:
    made = torch.tensor(boxes, dtype=torch.float32)
    return Priors((made[:, :2] + made[:, 2:]) / 2, torch.full((len(made),), 8.0), (len(made),), made)


def test_by_hand():
    # Object (0, 0, 10, 10). Of five anchors the nearest three have IoU 1, .6 and .2: mean .6, deviation of a sample
    # sqrt((.16 + 0 + .16) / 2) = .4, so the threshold is 1.
    anchors = line((0, 0, 10, 10), (2, 0, 8, 10), (4, 0, 6, 10), (20, 0, 30, 10), (30, 0, 40, 10))
    target, assigner = objects((0.0, 0, 10, 10)), ATSS(3, padding=None)
    found = assigner.candidates(anchors, BatchObjects.of([target]))
    assert sorted(found.prior[0].tolist()) == [0, 1, 2] and found.distance.tolist() == [[0, 0, 0]]
    assert float(assigner.thresholds(found)) == pytest.approx(1.0)
    # Four candidates: mean .45, squares .3025 + .0225 + .0625 + .2025 = .59, threshold .45 + sqrt(.59 / 3) = .893.
    four = ATSS(4, padding=None)
    found = four.candidates(anchors, BatchObjects.of([target]))
    assert float(four.thresholds(found)) == pytest.approx(0.89347, abs=1e-5)
    match = four(anchors, target)
    assert match.prior.tolist() == [0] and match.gt.tolist() == [0] and match.ignore is None


def test_the_center_must_lie_inside():
    # IoU of 1/3 each with mean 1/3 and deviation 0: enough for both, but one center lies on the border of the object.
    anchors = line((-5.0, 0, 5, 10), (-5.0, 0, 5, 10))
    assert len(ATSS(2, padding=None)(anchors, objects((0.0, 0, 10, 10))).prior) == 0
    anchors = line((-4.5, 0, 5.5, 10), (-4.5, 0, 5.5, 10))
    assert ATSS(2, padding=None)(anchors, objects((0.0, 0, 10, 10))).prior.tolist() == [0, 1]


def test_the_higher_iou_and_then_the_first_object_wins():
    anchors = line((0, 0, 10, 10), (40, 40, 44, 44))
    both = objects((0.0, 0, 10, 8), (0.0, 0, 10, 9), (0.0, 0, 10, 9))
    assert ATSS(2, padding=None)(anchors, both).gt.tolist() == []  # two candidates: mean + deviation is above both
    anchors = line((0, 0, 10, 10), (0, 40, 10, 44), (40, 0, 44, 10), (40, 40, 44, 44))
    match = ATSS(4, padding=None)(anchors, both)
    assert match.prior.tolist() == [0] and match.gt.tolist() == [1]


def test_a_single_candidate_is_never_positive():
    # The deviation of one number does not exist.
    assert len(ATSS(1, padding=None)(line((0, 0, 10, 10)), objects((0.0, 0, 10, 10))).prior) == 0


def plain(priors: Priors, target: Target, k: int = 9) -> list[tuple[int, int]]:
    """Algorithm 1 level by level and object by object."""
    centers = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    iou = pairwise_iou(priors.boxes, target.boxes)
    best: dict[int, tuple[float, int]] = {}
    for g, box in enumerate(target.boxes):
        distance: Tensor = (centers - (box[:2] + box[2:]) / 2).pow(2).sum(1).sqrt()
        candidates, start = [], 0
        for size in priors.level_sizes:
            order = distance[start : start + size].argsort(stable=True)[:k] + start
            candidates += order.tolist()
            start += size
        overlaps = iou[candidates, g]
        threshold = overlaps.mean() + overlaps.std()
        for p, overlap in zip(candidates, overlaps, strict=True):
            inside = torch.cat([centers[p] - box[:2], box[2:] - centers[p]]).min() > 0.01
            if overlap >= threshold and inside and float(overlap) > best.get(p, (-1.0, 0))[0]:
                best[p] = (float(overlap), g)
    return sorted((p, g) for p, (_, g) in best.items())


@pytest.mark.parametrize("size", [(96, 128), (512, 640)])
def test_like_the_plain_loop(size: tuple[int, int]):
    # The larger canvas has levels that are searched by blocks.
    priors, targets = pyramid(*size), [scene(seed, 12, size) for seed in range(3)]
    together = ATSS().batch(priors, targets)
    for i, target in enumerate(targets):
        match = together.of_image(i)
        assert list(zip(match.prior.tolist(), match.gt.tolist(), strict=True)) == plain(priors, target)
        assert len(match.prior) > 12


def test_objects_are_treated_in_parts(monkeypatch: pytest.MonkeyPatch):
    priors, targets = pyramid(96, 128), [scene(seed, 9, (96, 128)) for seed in range(2)]
    whole = ATSS().batch(priors, targets)
    monkeypatch.setattr("bifocals.assign.atss._CPU_PAIRS", 4 * len(priors))
    parts = ATSS().batch(priors, targets)
    assert parts.prior.tolist() == whole.prior.tolist() and parts.gt.tolist() == whole.gt.tolist()


def test_anchors_in_the_padding_take_no_part():
    small = scene(0, 8, (96, 128))
    alone, canvas = pyramid(96, 128), pyramid(256, 320)
    expected, found = ATSS()(alone, small), ATSS()(canvas, small)
    keep = torch.nonzero(~ATSS()(canvas, objects(size=(96, 128))).ignore)[:, 0]
    assert len(keep) == len(alone)  # what is left of the canvas is the image's own pyramid
    assert found.prior.tolist() == keep[expected.prior].tolist() and found.gt.tolist() == expected.gt.tolist()
    assert int(found.ignore.sum()) == len(canvas) - len(alone)
    beside = ATSS().batch(canvas, [scene(1, 5), small])
    assert beside.of_image(1).prior.tolist() == found.prior.tolist()


def test_crowd_regions_are_ignored():
    priors, target = pyramid(256, 320), scene(3, 6)
    region = torch.tensor([[0.0, 0, 160, 256]])
    with_region = replace(target, crowd_boxes=region)
    plain_match, match = ATSS()(priors, with_region), ATSS(crowd_overlap=0.5)(priors, with_region)
    assert not plain_match.ignore.any() and match.ignore.any()
    left = priors.boxes[match.ignore]
    assert ((left.clamp(min=0)[:, 2].clamp(max=160) - left[:, 0].clamp(min=0)) > 0).all()
    # On fine levels there are enough anchors beside the region; they alone are candidates.
    fine = match.prior < sum(priors.level_sizes[:2])
    assert (priors.points[match.prior[fine], 0] > 150).all()
    # Without objects nothing is ignored, whatever the regions.
    empty = replace(objects(size=(256, 320)), crowd_boxes=region)
    assert not ATSS(crowd_overlap=0.5)(priors, empty).ignore.any()


def test_errors():
    with pytest.raises(ValueError, match="k of at least 1, got 0"):
        ATSS(0)
    points = make_points([(4, 4)], [16])
    with pytest.raises(ValueError, match="ATSS expected priors with boxes, got points alone"):
        ATSS()(points, objects((0.0, 0, 9, 9)))


def test_losses_on_deltas_have_no_centerness():
    weights = {name: atss_branch(ATSSHead(box_loss=name)).losses["box"] for name in ("giou", "hcra", "smooth_l1")}
    assert weights["giou"].weight == weights["hcra"].weight == "centerness"
    assert weights["smooth_l1"].coder == ATSSHead().coder
