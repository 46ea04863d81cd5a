"""DeFCN's cost, its branches, and the options of one-to-one matching on the command line."""

from __future__ import annotations

import pytest
import torch

from bifocals.assign import POTO, MinCost, POTOAux
from bifocals.cli.find import parse_call
from bifocals.evaluate.cost import cost
from bifocals.losses import L1
from bifocals.networks import Backbone, FilteredPredictor, Towers
from bifocals.recipes import defcn, onenet
from bifocals.recipes.assembly import dense_network
from bifocals.recipes.defcn import filtered_one2one_predictor
from bifocals.recipes.fcos import fcos_predictor
from bifocals.recipes.onenet import one2one_branch
from bifocals.structures import Target

SMALL = {"backbone": Backbone("resnet18", "pytorch", "none"), "towers": Towers(64, 1)}


@pytest.mark.parametrize(
    ("predictors", "trainable", "parameters", "conv_macs"),
    [
        ({"one2one": filtered_one2one_predictor}, 32_610_394, 32_885_914, 212.349),
        ({"one2one": filtered_one2one_predictor, "one2many": fcos_predictor(False)}, 32_806_319, 33_081_839, 216.526),
    ],
    ids=["one-to-one with 3DMF", "DATE-F with 3DMF in training"],
)
def test_the_filter_on_the_towers_of_date(predictors, trainable, parameters, conv_macs):
    counted = cost(lambda: dense_network(Backbone(), predictors)(80), (800, 1280))
    assert (counted.total.trainable, counted.total.parameters) == (trainable, parameters)
    assert counted.total.conv_macs / 1e9 == pytest.approx(conv_macs, abs=1e-3)
    assert counted.parts["head.predictors.one2one"].parameters == 184_400 + 9_220 + 590_080 + 512 + 2_305


def test_towers_of_defcn_have_a_bias():
    counted = cost(lambda: defcn().network(80), (800, 1280)).total
    assert counted.trainable == 32_610_394 + 8 * 256
    plain = cost(lambda: defcn(filter3d=False).network(80), (800, 1280)).total
    assert counted.parameters - plain.parameters == 592_897


def targets() -> list[Target]:
    boxes = torch.tensor([[8.0, 8, 40, 44], [30, 20, 62, 60]])
    return [Target(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), (64, 64), (64, 64))]


def test_the_auxiliary_loss_reads_the_scores_before_the_filter():
    torch.manual_seed(0)
    experiment = defcn(**SMALL)
    network, objective = experiment.network(2), experiment.objective()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    losses = objective(network(images), targets())
    assert set(losses.raw) == {"one2one/cls", "one2one/giou", "aux/cls"}
    weights = {name: float((losses.weighted[name] / loss).detach()) for name, loss in losses.raw.items()}
    assert weights == {"one2one/cls": 1.0, "one2one/giou": 2.0, "aux/cls": 1.0}
    predictor = network.head.predictors["one2one"]
    assert isinstance(predictor, FilteredPredictor)
    filters = [p for name, p in predictor.named_parameters() if "filter" in name]
    assert len(filters) == 6  # two convolutions and a norm
    from_aux = torch.autograd.grad(losses.raw["aux/cls"], filters, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in from_aux)
    from_one2one = torch.autograd.grad(losses.raw["one2one/cls"], filters)
    assert all(bool(gradient.any()) for gradient in from_one2one)


def test_parts_can_be_left_out():
    assert set(defcn(aux=False, **SMALL).objective().branches) == {"one2one"}
    plain = defcn(filter3d=False, **SMALL)
    losses = plain.objective()(plain.network(2)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)), targets())
    assert set(losses.raw) == {"one2one/cls", "one2one/giou", "aux/cls"}


def test_the_conventions_of_defcn():
    branches = defcn(poto=POTO(radius=0, alpha=0.7, outside="minus_one"), **SMALL).objective().branches
    assert branches["one2one"].assigner == POTO(0.7, 0, "minus_one")
    assert branches["aux"].assigner == POTOAux(0.7, 9)
    assert defcn(**SMALL).objective().branches["one2one"].assigner == POTO(0.8, 1.5, "minus_one")
    optim = defcn().optim
    assert (optim.name, optim.lr, optim.backbone_lr_factor, optim.clip_norm) == ("sgd", 0.01, 1.0, None)
    steps = defcn().epochs * 117_266 / 16
    assert [round(m * steps, -3) for m in (1, *optim.milestones)] == [270_000, 210_000, 250_000]


@pytest.mark.parametrize(
    ("matching", "assigner"),
    [
        ("poto", POTO(0.6, 2.0, "zero")),
        ("poto_minus_one", POTO(0.6, 2.0, "minus_one")),
        ("hungarian", MinCost(box_format="xyxy")),
        ("argmin", MinCost(box_format="xyxy", solver="argmin")),
    ],
)
def test_options_of_matching_reach_assigner_and_loss(matching, assigner):
    branch = one2one_branch(matching, poto=POTO(0.6, 2.0), l1="xyxy")
    assert branch.assigner == assigner
    assert branch.losses["l1"] == L1("xyxy")
    plain = one2one_branch(matching)
    assert plain.losses["l1"] == L1("cxcywh")


def test_options_are_flags():
    argv = ["--matching", "poto", "--poto.alpha", ".7", "--poto.radius", "0", "--poto.outside", "minus_one",
            "--l1", "xyxy", "--init", "runs/fcos"]
    arguments, _ = parse_call(onenet, argv, "test")
    assert arguments["poto"] == POTO(0.7, 0.0, "minus_one")
    assert (arguments["l1"], arguments["init"]) == ("xyxy", "runs/fcos")
    arguments, _ = parse_call(defcn, ["--no-filter3d", "--poto.radius", "0"], "test")
    assert (arguments["filter3d"], arguments["aux"]) == (False, True)
    assert arguments["poto"] == POTO(radius=0.0, outside="minus_one")
