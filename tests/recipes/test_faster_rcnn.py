"""Faster R-CNN as a recipe: its losses by name, its arguments, exact resumption, starting from a run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from bifocals.balance import Balance
from bifocals.data import Data, Input, eval_transform, open_split
from bifocals.evaluate import evaluate
from bifocals.losses import BoxLossName
from bifocals.losses.iou_kinds import IoUKind
from bifocals.networks import Backbone
from bifocals.recipes import faster_rcnn
from bifocals.recipes.two_stage import RoIHead, RPNHead, roi_branch, rpn_branch
from bifocals.structures import Target
from bifocals.train import Optim, Provenance, Run, fit, load, read_log
from bifocals.train.checkpoint import list_checkpoints
from tests.train.scenario import draw_set, last_tensors, same_bits

SMALL = {
    "rpn": RPNHead(train_per_level=50, train_proposals=50, per_level=50, proposals=50, samples=32),
    "roi": RoIHead(samples=16, width=32),
    "backbone": Backbone("resnet18", "pytorch", "none"),
    "channels": 64,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=4, val=2, empty=(1,))


def settings(data: Data, epochs: float = 1) -> dict:
    return SMALL | {"data": data, "input": Input(64, 64, augment="none"), "epochs": epochs,
                    "optim": Optim("sgd", lr=1e-3, batch_size=2, warmup_steps=0)}


def train(arguments: dict, workdir: Path, **run) -> Path:
    provenance = Provenance("bifocals.recipes.faster_rcnn:faster_rcnn", arguments)
    return fit(faster_rcnn(**arguments), Run(str(workdir), workers=0, eval_every=0, device="cpu", **run), provenance)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> Path:
    return train(settings(data, 2), tmp_path_factory.mktemp("straight") / "run", save_every=1, log_every=1)


def test_a_resumed_run_samples_what_it_would_have_sampled(data, straight, tmp_path):
    folder = tmp_path / "run"
    train(settings(data, 2), folder, save_every=1, log_every=1)
    for step, checkpoint in list_checkpoints(folder)[1:]:
        assert step == 4
        shutil.rmtree(checkpoint)
    train(settings(data, 2), folder, save_every=1, log_every=1, resume="auto")
    one, other = last_tensors(straight), last_tensors(folder)
    assert one.keys() == other.keys() and "state.safetensors:random/0/torch" in one
    different = {name for name in one if not same_bits(one[name], other[name])}
    assert different <= {"state.safetensors:random/0/python"}  # which the checks of shapes in this process draw from


def test_the_log_has_the_losses_of_both_stages(straight):
    steps = [r for r in read_log(straight) if r["kind"] == "train"]
    assert [list(r["raw"]) for r in steps] == [["rpn/cls", "rpn/box", "roi/cls", "roi/box"]] * 4


def test_what_was_trained_is_evaluated(data, straight):
    trained = load(straight)
    assert trained.experiment.output == "roi" and trained.network.outputs == ("rpn", "roi")
    annotations = open_split(data, "val", log=None)
    found = evaluate(trained.network, annotations, transform=eval_transform(trained.experiment.input),
                     postprocess={"roi": replace(trained.experiment.postprocess["roi"], score_threshold=0.0)},
                     output="roi", batch_size=2, max_detections=30)
    assert found.nms == 0.5 and found.max_detections == 30 and 0 <= found.ap <= 1
    assert max(len(d) for d in found.detections.values()) == 30


def test_it_starts_from_a_run_of_its_own(data, straight):
    experiment = faster_rcnn(**settings(data), init=str(straight))
    network = experiment.network(2)
    fresh = {n: t.clone() for n, t in network.state_dict().items()}
    said = experiment.start(network)
    theirs, own = load(straight).network.state_dict(), network.state_dict()
    for name in own:
        anew = name.startswith(("roi.cls", "roi.box")) or name.endswith("num_batches_tracked")
        assert torch.equal(own[name], (fresh if anew else theirs)[name]), name
    assert "rpn 6" in said and "roi.cls (2)" in said


def scene() -> tuple[torch.Tensor, list[Target]]:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[4.0, 4, 40, 30], [20, 20, 60, 60]])
    some = Target(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), (64, 64), (64, 64))
    none = Target(boxes[:0], some.labels[:0], some.crowd[:0], (64, 64), (64, 64))
    return images, [some, none]


def test_each_stage_has_a_box_loss_of_its_own():
    images, targets = scene()
    torch.manual_seed(0)
    network = faster_rcnn(**SMALL).network(2).train()
    outputs = network(images, targets)
    values: dict[str, list[float]] = {"rpn": [], "roi": []}
    names = [n for part in get_args(BoxLossName) for n in (get_args(part) or (part,))]
    assert {"l1", "smooth_l1", "balanced_l1", "ciou", "giou"} <= set(names) and set(get_args(IoUKind)) <= set(names)
    for name in names:
        torch.manual_seed(1)
        rpn = rpn_branch(replace(SMALL["rpn"], box_loss=name, beta=1 / 9)).eval()(outputs["rpn"], targets)
        values["rpn"].append(float(rpn["box"].detach()))
        if name == "hcra":
            continue
        roi = roi_branch(replace(SMALL["roi"], box_loss=name, beta=1 / 9)).eval()(outputs["roi"], targets)
        values["roi"].append(float(roi["box"].detach()))
    for found in values.values():
        assert all(v > 0 for v in found) and len({round(v, 6) for v in found}) > len(names) - 6
    with pytest.raises(ValueError, match="RoIHead expected a box loss .*got 'hcra'"):
        RoIHead(box_loss="hcra")


def test_weights_and_balancers_of_each_stage():
    rpn, roi = RPNHead(cls_weight=0.25, box_weight=0.5), RoIHead(box_weight=2.0)
    made = faster_rcnn(rpn, roi).objective().branches
    assert made["rpn"].balance.weights == {"cls": 0.25, "box": 0.5}
    assert made["roi"].balance.weights == {"cls": 1.0, "box": 2.0}
    alwa = faster_rcnn(balance=Balance("alwa1", branches=("rpn",))).objective().branches
    assert type(alwa["rpn"].balance).__name__ == "ALWA" and type(alwa["roi"].balance).__name__ == "Fixed"


def test_the_defaults_are_those_of_mmdetection():
    network = faster_rcnn().network(3)
    sampler = network.assigner
    assert (sampler.num, sampler.positive_share, sampler.assigner.low_quality) == (512, 0.25, False)
    assert (network.choice.per_level, network.choice.keep) == (1000, 1000)
    assert (network.training_choice.per_level, network.training_choice.keep) == (2000, 1000)
    assert network.roi.pool.aligned and network.roi.pool.sampling_ratio == 0
    branch = faster_rcnn().objective().branches["rpn"]
    assert (branch.assigner.num, branch.assigner.assigner.min_positive) == (256, 0.3) and branch.class_agnostic


@pytest.mark.parametrize("preset", [{}, {"rpn": RPNHead.torchvision(), "roi": RoIHead.torchvision()}])
def test_arguments_survive_run_json(preset: dict):
    assert Provenance("bifocals.recipes.faster_rcnn:faster_rcnn", preset).resolved()["channels"] == 256
