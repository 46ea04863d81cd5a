"""The one-to-many halves of DATE: by name, by a function of one's own, and what they weigh."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bifocals.check.scene import scene_target
from bifocals.networks import Backbone, Towers, prune
from bifocals.recipes import date
from bifocals.recipes.one_to_many import ONE_TO_MANY, OneToMany, find_one2many
from bifocals.recipes.retinanet import RetinaHead

SMALL = {"backbone": Backbone("resnet18", "pytorch", weights="none"), "towers": Towers(64, 1)}
OWN = '''
from bifocals.predict import Postprocess
from bifocals.recipes.fcos import fcos_branch, fcos_predictor
from bifocals.recipes.one_to_many import OneToMany

def centers_only():
    return OneToMany(fcos_predictor(True), lambda weight: fcos_branch(0.5, "giou", weight),
                     Postprocess(nms=0.6), weight=0.5)

def wrong():
    return 3
'''


def losses_of(experiment) -> dict[str, float]:
    torch.manual_seed(0)
    network = experiment.network(3).train()
    outputs = network(torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8))
    losses = experiment.objective()(outputs, [scene_target(4), scene_target(0)])
    losses.total.backward()
    missing = [n for n, p in network.named_parameters()
               if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
    assert not missing
    return {name: float(value.detach()) for name, value in losses.weighted.items()}


@pytest.mark.parametrize("name", ONE_TO_MANY)
def test_every_half_learns_beside_the_one_to_one_branch(name: str):
    experiment = date(name, **SMALL)
    plain = losses_of(experiment)
    assert {key.split("/")[0] for key in plain} == {"one2one", "one2many"}
    heavier = losses_of(date(name, lambda_o2m=3 * find_one2many(name).weight, lambda_o2o=2.0, **SMALL))
    for key, value in plain.items():
        assert heavier[key] == pytest.approx(value * (2 if key.startswith("one2one") else 3), rel=1e-5)


def test_the_weights_of_the_paper():
    assert {name: find_one2many(name).weight for name in ("fcos", "retina")} == {"fcos": 1.0, "retina": 2.0}


@pytest.mark.parametrize("options", [{}, {"one2many": "retina"}, {"filter3d": True}, {"towers": Towers(64, 1, False)}],
                         ids=["fcos", "retina", "3dmf", "unshared"])
def test_the_shipped_half_is_bit_equal(options: dict):
    network = date(**(SMALL | options)).network(3).eval()
    images = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    with torch.no_grad():
        whole, shipped = network(images)["one2one"], prune(network, "one2one")(images)
    assert list(shipped) == ["one2one"]
    assert torch.equal(whole.logits, shipped["one2one"].logits)
    assert torch.equal(whole.boxes, shipped["one2one"].boxes)


def test_a_half_of_ones_own(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    half = find_one2many(f"{file}:centers_only")
    assert isinstance(half, OneToMany) and half.weight == 0.5
    assert set(losses_of(date(f"{file}:centers_only", **SMALL))) >= {"one2many/cls", "one2one/l1"}
    assert date(f"{file}:centers_only").postprocess["one2many"].nms == 0.6
    with pytest.raises(ValueError, match=r"expected .*wrong to return a OneToMany, got int"):
        find_one2many(f"{file}:wrong")
    with pytest.raises(ValueError, match=r"expected one of \['fcos', .* or FILE.py:FUNCTION, got 'yolo'"):
        date("yolo")


def test_detections_for_crowds():
    process = date(max_detections=500).postprocess
    assert process["one2one"].max_detections == process["one2one"].per_level == 500
    assert process["one2many"].max_detections == 500 and process["one2many"].per_level == 1000


def test_what_the_anchor_half_is_divided_by():
    # An image without objects counts as one positive in DATE's way, and as none over all processes.
    local = losses_of(date("retina", **SMALL))
    reduced = losses_of(date("retina", retina=RetinaHead(normalizer="reduced"), **SMALL))
    assert reduced["one2many/cls"] > local["one2many/cls"]
    assert reduced["one2one/cls"] == local["one2one/cls"]
