"""Every loss of HCRAL's Tables 8 and 9 trains an epoch in both of their hosts.

The sum of the losses falls, gradients are finite, and the network becomes better by a fixed measure: focal loss for
class losses, the mean of 1 - GIoU for box losses. A loss need not fall by itself at first: qfl, vfl and hcra ask for
more where boxes become better.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from bifocals.data import Data, DetectionDataset, Input, collate, eval_transform, open_split
from bifocals.losses import Focal, IoULoss
from bifocals.networks import Backbone, Towers
from bifocals.recipes import hcral
from bifocals.structures import Matched
from bifocals.train import Experiment, Optim, Provenance, Run, fit, load, read_log
from tests.train.scenario import draw_set

HOSTS = ("retinanet", "atss")
TABLE_8 = ("focal", "qfl", "dr", "vfl", "hcra")
TABLE_9 = ("l1", "giou", "eiou", "focal_eiou", "alpha_iou", "hcra")
BASELINE = {"retinanet": ("focal", "l1"), "atss": ("focal", "giou")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=128, val=2)


def epoch(host: str, cls_loss: str, box_loss: str, data: Data, workdir: Path) -> tuple[list[dict], list[dict]]:
    """What was logged of the 32 steps of an epoch, and the fixed measures before and after."""
    arguments = {
        "host": host, "cls_loss": cls_loss, "box_loss": box_loss, "data": data, "epochs": 1,
        "backbone": Backbone("resnet18", "pytorch", "none"), "towers": Towers(64, 1),
        "input": Input(64, 64, augment="none"),
        "optim": Optim(lr=5e-4, batch_size=4, backbone_lr_factor=1, warmup_steps=3, clip_norm=10.0),
    }
    experiment = hcral(**arguments)
    run = Run(str(workdir), workers=0, log_every=1, eval_every=0, device="cpu")
    torch.manual_seed(0)
    before = measures(host, experiment.network(2), experiment)
    record = Provenance("bifocals.recipes.hcral:hcral", arguments)
    steps = [r for r in read_log(fit(experiment, run, record)) if r["kind"] == "train"]
    return steps, [before, measures(host, load(workdir, "last").network, experiment)]


@torch.no_grad()
def measures(host: str, network: nn.Module, experiment: Experiment) -> dict[str, float]:
    """Focal loss and mean of 1 - GIoU of the pairs of 16 training images."""
    dataset = DetectionDataset(open_split(experiment.data, "train", log=None), eval_transform(experiment.input))
    batch = collate([dataset[0, i] for i in range(16)])
    branch = hcral(host).objective().branches["one2many"]
    output = network.train()(batch.images)["one2many"]
    matched = Matched(output, batch.targets, branch.match(output, batch.targets))
    return {"cls": float(Focal()(matched)), "box": float(IoULoss("giou")(matched))}


def learns(name: str, steps: list[dict], measured: list[dict]) -> None:
    assert len(steps) == 32
    assert all(math.isfinite(value) for step in steps for value in step["raw"].values())
    assert all(math.isfinite(step["grad_norm"]) and step["grad_norm"] > 0 for step in steps)
    totals = [step["loss"] for step in steps]
    assert sum(totals[-8:]) < sum(totals[:8])
    before, after = measured
    assert after[name] < 0.95 * before[name], (before, after)


@pytest.mark.slow
@pytest.mark.parametrize("cls_loss", TABLE_8)
@pytest.mark.parametrize("host", HOSTS)
def test_table_8(host: str, cls_loss: str, drawn: Data, tmp_path: Path):
    learns("cls", *epoch(host, cls_loss, BASELINE[host][1], drawn, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("box_loss", TABLE_9)
@pytest.mark.parametrize("host", HOSTS)
def test_table_9(host: str, box_loss: str, drawn: Data, tmp_path: Path):
    learns("box", *epoch(host, BASELINE[host][0], box_loss, drawn, tmp_path / "run"))
