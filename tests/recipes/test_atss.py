"""ATSS as a detector of its own and beside a one-to-one branch."""

from __future__ import annotations

import torch

from bifocals.assign import ATSS
from bifocals.recipes import atss, date, fcos
from bifocals.recipes.atss import ATSSHead


def parameters(experiment) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in experiment.network(80).parameters())


def test_one_anchor_a_point_costs_what_fcos_costs():
    assert parameters(atss()) == parameters(fcos()) == 32_295_322


def test_beside_date():
    experiment = date("atss")
    assert parameters(experiment) == parameters(date("fcos"))
    with torch.device("meta"):
        assert experiment.network(3).outputs == ("one2one", "one2many")
    assert (experiment.postprocess["one2many"].nms, experiment.postprocess["one2one"].nms) == (0.6, None)
    branch = experiment.objective().branches["one2many"]
    assert isinstance(branch.assigner, ATSS) and list(branch.losses) == ["cls", "box", "quality"]
    assert branch.weight == 1.0


def test_the_defaults_are_the_release_s():
    head = ATSSHead()
    assert (head.anchors.base_scale, len(head.anchors), head.matching.k) == (8.0, 1, 9)
    assert head.coder.stds == (0.1, 0.1, 0.2, 0.2) and head.box_weight == 2.0
    experiment = atss(max_detections=300)
    assert experiment.postprocess["one2many"].max_detections == 300
    assert (experiment.optim.name, experiment.optim.lr, experiment.optim.clip_norm) == ("sgd", 0.01, None)
