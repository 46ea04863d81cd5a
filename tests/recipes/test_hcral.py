"""HCRAL: what its knobs build, what they refuse, and losses by name on every dense recipe."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest
import torch

from bifocals.assign import ATSS, EATSS, MaxIoU
from bifocals.cli.find import parse_call
from bifocals.losses import (
    DR,
    HCRAC,
    HCRAR,
    BoxLossName,
    ClsLossName,
    DeltaLossName,
    Focal,
    Initial,
    IoULoss,
    SmoothL1,
)
from bifocals.networks import Backbone, DenseDetector, SidesPredictor, StarPredictor, Towers, is_deformable
from bifocals.objective import DenseBranch
from bifocals.recipes import atss, fcos, hcral, retinanet
from bifocals.recipes.atss import ATSSHead
from bifocals.recipes.retinanet import RetinaHead
from bifocals.structures import Target
from bifocals.train import Experiment

SMALL = {"backbone": Backbone("resnet18", "pytorch", "none"), "towers": Towers(64, 1)}


def branch_of(experiment: Experiment) -> DenseBranch:
    return experiment.objective().branches["one2many"]


def trained_on(experiment: Experiment) -> dict[str, float]:
    """Forward and backward of a drawn batch with an empty image; every gradient must be finite."""
    boxes = torch.tensor([[8.0, 8, 40, 44], [30, 20, 62, 60]])
    flags = torch.zeros(2, dtype=torch.bool)
    targets = [Target(boxes, torch.tensor([0, 1]), flags, (64, 64), (64, 64)),
               Target(boxes[:0], torch.zeros(0, dtype=torch.int64), flags[:0], (64, 64), (64, 64))]
    torch.manual_seed(0)
    network = experiment.network(2)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    losses = experiment.objective()(network(pixels), targets)
    losses.total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    return {name: float(loss.detach()) for name, loss in losses.weighted.items()}


def test_the_default_is_the_paper_s_structure():
    experiment = hcral()
    branch = branch_of(experiment)
    assert isinstance(branch.losses["cls"], HCRAC) and isinstance(branch.losses["box"], HCRAR)
    assert (branch.losses["cls"].theta, branch.losses["cls"].mu, branch.losses["cls"].density.bins) == (5, 0.7, 20)
    box = branch.losses["box"]
    assert (box.gamma, box.alpha, box.ep, box.weight, box.least) == (1.5, 0.1, 0.001, "iou", 1.0)
    assert branch.balance.weights == {"box": 2.0} and branch.assigner == ATSS()
    assert branch_of(hcral(eatss=True)).assigner == EATSS(3)
    assert branch_of(hcral(eatss=True, extras=2)).assigner == EATSS(2)
    with torch.device("meta"):
        network = experiment.network(80)
    assert isinstance(network, DenseDetector) and isinstance(network.head.predictors["one2many"], SidesPredictor)
    process = experiment.postprocess["one2many"]
    assert (process.score_threshold, process.nms, process.max_detections) == (0.05, 0.6, 100)
    common = {"backbone", "towers", "input", "epochs", "data", "optim"}
    assert len(set(inspect.signature(hcral).parameters) - common) <= 10


def test_auxiliary_modules():
    experiment = hcral(aux=True, dcn=True, **SMALL | {"towers": Towers(64, 3)})
    branch = branch_of(experiment)
    assert isinstance(branch.losses["initial"], Initial) and branch.losses["initial"].loss is not branch.losses["box"]
    assert branch.balance.weights == {"box": 2.0, "initial": 1.5}
    network = experiment.network(2)
    star = network.head.predictors["one2many"]
    assert isinstance(star, StarPredictor) and star.quality_source == "initial" and star.gradient == 0.1
    tower = network.head.cls_towers["shared"].layers
    assert len(tower) == 2 * 3 and is_deformable(tower[3]) and not is_deformable(tower[:3])
    assert is_deformable(network.backbone.stages[2]) and not is_deformable(network.backbone.stages[1])
    assert set(trained_on(hcral(aux=True, eatss=True, **SMALL))) == {
        f"one2many/{name}" for name in ("cls", "box", "initial", "quality")}


def test_retinanet_and_atss_as_hosts():
    branch = branch_of(hcral("retinanet"))
    assert branch.balance.weights == {"box": 2.5} and branch.losses["box"].gamma == 1.2
    assert branch.losses["box"].weight == "none" and branch.assigner == MaxIoU()
    assert branch_of(hcral("retinanet", box_loss="l1")).balance.weights == {"box": 1.0}
    with torch.device("meta"):
        network = hcral("retinanet", towers=Towers(norm="none")).network(80)
    extra = network.neck.pyramid.extra_blocks
    assert extra.source == "c5" and not extra.relu_before_p7 and not network.head.scales.requires_grad
    assert hcral("retinanet").postprocess["one2many"].nms == 0.5
    branch = branch_of(hcral("atss", eatss=True))
    assert branch.balance.weights == {"box": 2.0} and branch.losses["box"].gamma == 1.5
    assert branch.losses["box"].weight == "centerness" and branch.assigner == EATSS()


def test_dr_loss_comes_with_its_own_settings():
    experiment = hcral("retinanet", cls_loss="dr", **SMALL)
    branch, process = branch_of(experiment), experiment.postprocess["one2many"]
    assert isinstance(branch.losses["cls"], DR) and process.score_threshold == 0.2
    assert (branch.assigner.positive, branch.assigner.negative) == (0.5, 0.5)
    for made in (experiment, hcral(cls_loss="dr", **SMALL), hcral("atss", cls_loss="dr", **SMALL),
                 fcos(cls_loss="dr", **SMALL)):
        predictor = made.network(2).head.predictors["one2many"]
        assert not predictor.cls.bias.any()


def test_multiscale():
    assert hcral(multiscale=True).input.multiscale == tuple(range(480, 961))
    assert hcral().input.multiscale == ()
    small = hcral().input.__class__(96, 100)
    assert hcral(multiscale=True, input=small).input.multiscale == tuple(range(58, 101))
    with pytest.raises(ValueError, match="got both, 2 sides"):
        hcral(multiscale=True, input=small.__class__(96, 100, multiscale=(80, 96)))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="hcral knows the hosts .*, got 'fcos'"):
        hcral("fcos")
    with pytest.raises(ValueError, match="hcral expected aux with host 'fcos_atss', got 'atss'"):
        hcral("atss", aux=True)
    with pytest.raises(ValueError, match="hcral expected eatss with host 'atss' or 'fcos_atss', got 'retinanet'"):
        hcral("retinanet", eatss=True)
    with pytest.raises(ValueError, match="expected a box loss on decoded boxes, got 'l1'"):
        hcral(box_loss="l1")
    with pytest.raises(ValueError, match="towers of depth 1 or more for its refinement, got 0"):
        hcral(aux=True, towers=Towers(64, 0))


def test_command_line():
    argv = ["--host", "fcos_atss", "--aux", "--dcn", "--eatss", "--extras", "2", "--cls-loss", "vfl", "--box-loss",
            "giou", "--multiscale"]
    values, _ = parse_call(hcral, argv, "bifocals train hcral")
    assert values["aux"] and values["dcn"] and values["eatss"] and values["extras"] == 2
    assert (values["cls_loss"], values["box_loss"]) == ("vfl", "giou")
    for recipe, flag in ((fcos, "--"), (atss, "--head."), (retinanet, "--head.")):
        values, _ = parse_call(recipe, [f"{flag}cls-loss", "hcra", f"{flag}box-loss", "focal_eiou"], "bifocals train")
        chosen = values if recipe is fcos else vars(values["head"])
        assert (chosen["cls_loss"], chosen["box_loss"]) == ("hcra", "focal_eiou")


def test_defaults_of_the_recipes_are_unchanged():
    branch = branch_of(retinanet())
    assert branch.losses == {"cls": Focal(normalizer="local"), "box": SmoothL1(0.0, normalizer="local")}
    assert branch_of(retinanet(RetinaHead(box_loss="giou"))).losses["box"].weight == "none"
    assert branch_of(fcos()).losses["box"] == IoULoss("log", "centerness", eps=1e-6)
    assert branch_of(fcos(tricks=True)).losses["box"] == IoULoss("giou", "centerness", eps=1e-7)
    assert branch_of(fcos()).losses["cls"] == Focal()


NAMED_BOX = [n for part in get_args(BoxLossName) for n in (get_args(part) or (part,))]


@pytest.mark.parametrize("name", get_args(ClsLossName))
def test_any_class_loss_on_any_recipe(name: ClsLossName):
    for experiment in (fcos(cls_loss=name, tricks=True), atss(ATSSHead(cls_loss=name)),
                       retinanet(RetinaHead(cls_loss=name)), hcral(cls_loss=name)):
        assert type(branch_of(experiment).losses["cls"]) is type(branch_of(hcral("atss", cls_loss=name)).losses["cls"])


@pytest.mark.parametrize("name", NAMED_BOX)
def test_any_box_loss_on_any_recipe(name: BoxLossName):
    on_deltas = name in get_args(DeltaLossName)
    made = [atss(ATSSHead(box_loss=name)), retinanet(RetinaHead(box_loss=name, beta=0.11)),
            *([] if on_deltas else [fcos(box_loss=name), hcral(box_loss=name)])]
    kinds = {type(branch_of(experiment).losses["box"]) for experiment in made}
    assert len(kinds) == 1
    if on_deltas:
        with pytest.raises(ValueError, match="fcos expected a box loss on decoded boxes, got"):
            fcos(box_loss=name)


@pytest.mark.parametrize("names", [("hcra", "hcra"), ("qfl", "wiou_v3"), ("ghm", "alpha_ciou")])
def test_pairs_of_losses_train(names: tuple[ClsLossName, BoxLossName]):
    cls_loss, box_loss = names
    for experiment in (fcos(cls_loss=cls_loss, box_loss=box_loss, tricks=True, **SMALL),
                       hcral("retinanet", cls_loss=cls_loss, box_loss=box_loss, **SMALL)):
        assert all(value >= 0 for value in trained_on(experiment).values())
