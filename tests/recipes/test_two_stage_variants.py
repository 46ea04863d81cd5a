"""The variants of Faster R-CNN: their parameters, what a step of each does, their state and their errors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bifocals.assign import DynamicIoU, Sampled
from bifocals.balance import Balance
from bifocals.data import Data, Input, save_scenes
from bifocals.losses import DynamicSmoothL1, MaskLoss
from bifocals.networks import Backbone, BalancedPyramid, DoubleHead
from bifocals.recipes import double_head_rcnn, dynamic_rcnn, faster_rcnn, libra_rcnn, mask_rcnn
from bifocals.recipes.double_head_rcnn import Convolutions
from bifocals.recipes.dynamic_rcnn import Dynamic
from bifocals.recipes.libra_rcnn import Libra
from bifocals.recipes.mask_rcnn import MASK_ROI, Masks
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.structures import Target
from bifocals.train import Optim, Run, fit, read_log

FAST = {
    "rpn": RPNHead(train_per_level=60, train_proposals=60, per_level=40, proposals=40, samples=64),
    "roi": RoIHead(samples=32, width=64, box_loss="smooth_l1"),
    "backbone": Backbone("resnet18", "pytorch", weights="none"),
    "channels": 64,
}
VARIANTS = {
    "mask": lambda **kw: mask_rcnn(Masks(64, 1), **kw),
    "dynamic": lambda **kw: dynamic_rcnn(Dynamic(every=2, iou_rank=5), **kw),
    "double": lambda **kw: double_head_rcnn(Convolutions(1), **kw),
    "libra": lambda **kw: libra_rcnn(**kw),
}


def parameters(experiment, num_classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in experiment.network(num_classes).parameters())


@pytest.mark.parametrize(
    ("make", "num_classes", "count"),
    [
        (faster_rcnn, 20, 41_445_556), (dynamic_rcnn, 20, 41_445_556), (libra_rcnn, 20, 41_445_556 + 263_168),
        (double_head_rcnn, 20, 47_033_012), (double_head_rcnn, 80, 47_340_512), (mask_rcnn, 80, 44_396_336),
    ],
)
def test_parameters_of_the_papers_networks(make, num_classes: int, count: int):
    assert parameters(make(), num_classes) == count


def scene(num_objects: tuple[int, ...] = (2, 0), masks: bool = True) -> tuple[torch.Tensor, list[Target]]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(num_objects), 3, 96, 96), dtype=torch.uint8, generator=draw)
    targets = []
    for i, count in enumerate(num_objects):
        low = torch.randint(0, 50, (count, 2), generator=draw)
        boxes = torch.cat([low, low + torch.randint(16, 40, (count, 2), generator=draw)], dim=1)
        drawn = torch.zeros(count, 96, 96, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(drawn, boxes.tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        targets.append(Target(boxes.float(), torch.arange(count) % 2, torch.zeros(count, dtype=torch.bool), (96, 96),
                              (192, 192), i, masks=drawn if masks else None))
    return images, targets


@pytest.fixture(params=VARIANTS)
def experiment(request):
    return VARIANTS[request.param](**FAST)


def test_a_step_reaches_every_parameter(experiment):
    torch.manual_seed(0)
    network, objective = experiment.network(2), experiment.objective()
    images, targets = scene()
    losses = objective(network(images, targets), targets)
    assert all(v.isfinite() for v in losses.raw.values())
    names = {"rpn/cls", "rpn/box", "roi/cls", "roi/box"}
    assert set(losses.raw) == names | ({"roi/mask"} if experiment.masks else set())
    losses.total.backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


def test_images_without_objects_are_background(experiment):
    torch.manual_seed(0)
    network, objective = experiment.network(2), experiment.objective()
    images, targets = scene((0, 0))
    losses = objective(network(images, targets), targets)
    assert float(losses.raw["roi/box"].detach()) == 0 == float(losses.raw["rpn/box"].detach())
    assert float(losses.raw["roi/cls"].detach()) > 0
    losses.total.backward()  # DDP waits for every parameter, also where no region has an object
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_a_batch_of_two_is_two_of_one(experiment):
    torch.manual_seed(0)
    network = experiment.network(2).eval()
    images, targets = scene((2, 1))
    choose = replace(experiment.postprocess["roi"], score_threshold=0.0, per_level=60, max_detections=8)
    with torch.no_grad():
        together = choose(network(images, targets)["roi"], targets)
        for i, target in enumerate(targets):
            alone = choose(network(images[i : i + 1], [target])["roi"], [target])[0]
            assert len(alone) == 8
            torch.testing.assert_close(together[i].boxes, alone.boxes, rtol=1e-3, atol=0.05)
            assert (together[i].masks is not None) == experiment.masks
            if experiment.masks:
                assert alone.masks.shape == (8, 28, 28)
                torch.testing.assert_close(together[i].masks, alone.masks, rtol=1e-3, atol=1e-3)


def test_state_is_the_networks_and_the_objectives_own():
    torch.manual_seed(0)
    experiment = VARIANTS["dynamic"](**FAST)
    network, objective = experiment.network(2), experiment.objective()
    images, targets = scene((2, 1))
    for _ in range(2):
        objective(network(images, targets), targets)
    assert isinstance(network.assigner, DynamicIoU)
    state, learned = network.state_dict(), objective.state_dict()
    assert float(state["assigner.threshold"]) != 0.5  # 40 random proposals of an image overlap less
    [count] = [v for n, v in learned.items() if n.endswith("box.history.count")]
    assert int(count) == 2
    assert objective.scheduled() == {"roi/beta": 1.0}  # at most what it starts with: random regions are far off
    other = experiment.network(2)
    other.load_state_dict(state)
    assert torch.equal(other.assigner.threshold, network.assigner.threshold)
    with torch.no_grad():
        network.eval()(images)
    assert torch.equal(other.assigner.threshold, network.assigner.threshold)


def test_what_each_variant_is_made_of():
    network = libra_rcnn(Libra(bin_rule="paper"), **FAST).network(2)
    assert isinstance(network.hook, BalancedPyramid)
    sampled = network.assigner
    assert isinstance(sampled, Sampled)
    assert (sampled.positives, sampled.negatives, sampled.bin_rule) == ("instance_balanced", "iou_balanced", "paper")
    assert libra_rcnn().objective().branches["rpn"].assigner.neg_pos_ub == 5
    assert isinstance(VARIANTS["double"](**FAST).network(2).roi, DoubleHead)
    weights = double_head_rcnn().objective().branches["roi"].balance.weights
    assert weights == {"cls": 2.0, "box": 2.0}
    with torch.device("meta"):
        network = dynamic_rcnn().network(2)
    assert network.choice.nms == network.training_choice.nms == 0.85
    box = dynamic_rcnn(roi=RoIHead(box_loss="smooth_l1", beta=0.5)).objective().branches["roi"].losses["box"]
    assert isinstance(box, DynamicSmoothL1) and float(box.beta) == 0.5
    assert MASK_ROI.matching.low_quality and mask_rcnn().masks
    assert mask_rcnn(Masks.torchvision()).objective().branches["roi"].mask == MaskLoss(False, False)


@pytest.mark.parametrize("make", VARIANTS.values(), ids=list(VARIANTS))
def test_every_variant_takes_a_balancer(make):
    experiment = make(**FAST, balance=Balance("alwa1", ("rpn", "roi"), window=2))
    torch.manual_seed(0)
    network, objective = experiment.network(2), experiment.objective()
    images, targets = scene()
    raw = objective(network(images, targets), targets).raw
    for _ in range(5):
        objective.observe(raw)
    branch = objective.branches["rpn"]
    weighted = branch.weigh({"cls": raw["rpn/cls"], "box": raw["rpn/box"]})
    assert float((weighted["cls"] - raw["rpn/cls"]).detach()) < 0 == float((weighted["box"] - raw["rpn/box"]).detach())
    if experiment.masks:
        assert float(objective.branches["roi"].weigh({n.removeprefix("roi/"): v for n, v in raw.items()
                                                      if n.startswith("roi/")})["mask"].detach()) > 0


def test_dynamic_moves_only_smooth_l1():
    with pytest.raises(ValueError, match="dynamic_rcnn expected the RoI box loss 'smooth_l1', .* got 'ciou'"):
        dynamic_rcnn(roi=RoIHead(box_loss="ciou"))


def settings(folder, **more) -> dict:
    return {**FAST, "data": Data(str(folder)), "input": Input(96, 96, augment="none"), "epochs": 1,
            "optim": Optim("sgd", lr=0.01, batch_size=2, warmup_steps=1), **more}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return save_scenes(tmp_path_factory.mktemp("scenes"), train=4, val=2, hw=(96, 96), num_classes=2)


def test_mask_rcnn_learns_from_a_set_with_masks_and_is_judged_by_them(scenes, tmp_path):
    run = Run(str(tmp_path / "run"), workers=0, log_every=1, device="cpu")
    workdir = fit(VARIANTS["mask"](**settings(scenes)), run)
    steps = [r for r in read_log(workdir) if r["kind"] == "train"]
    assert len(steps) == 2 and all(r["raw"]["roi/mask"] > 0 for r in steps)
    [judged] = [r for r in read_log(workdir) if r["kind"] == "evaluation"]
    assert "masks" in str(judged)


def test_mask_rcnn_refuses_a_set_without_masks_before_the_first_step(scenes, tmp_path):
    for name in ("train2017", "val2017"):
        path = scenes / "annotations" / f"instances_{name}.json"
        record = json.loads(path.read_text())
        for one in record["annotations"]:
            del one["segmentation"]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / path.name).write_text(json.dumps(record))
        (tmp_path / name).symlink_to(scenes / name)
    with pytest.raises(ValueError, match="expected masks of its objects"):
        fit(VARIANTS["mask"](**settings(tmp_path)), Run(str(tmp_path / "run"), workers=0, device="cpu"))


def test_dynamic_rcnn_goes_on_exactly_where_it_stopped(scenes, tmp_path):
    experiment = VARIANTS["dynamic"](**settings(scenes, epochs=2))

    class Stop(Exception):
        pass

    def stop(state):
        if state.step == 4:
            raise Stop

    run = Run(str(tmp_path / "whole"), workers=0, device="cpu", save_every=3, log_every=1, eval_every=0)
    whole = fit(experiment, run)
    run = replace(run, workdir=str(tmp_path / "parts"))
    with pytest.raises(Stop):
        fit(experiment, run, on_step=stop)
    parts = fit(experiment, replace(run, resume="auto"))
    first, second = ([r for r in read_log(w) if r["kind"] == "train"][-1] for w in (whole, parts))
    assert first["raw"] == second["raw"] and first["scheduled"] == second["scheduled"]
    assert set(first["scheduled"]) == {"iou_threshold", "roi/beta"}
    assert first["scheduled"]["iou_threshold"] != 0.5
