"""Replays VarifocalNet: star offsets, the losses of its head, and its decoding. Points have offset 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bifocals.assign import ATSS
from bifocals.balance import Fixed
from bifocals.losses import Initial, IoULoss, Varifocal
from bifocals.networks import DeformConv2d, flatten_levels, star_offsets
from bifocals.networks.star import SQUARE
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import (
    DenseOutput,
    Match,
    Prediction,
    Priors,
    Target,
    boxes_from_distances,
    make_points,
)

from . import detections
from .branches import STRIDES, targets_of
from .case import Case


def offsets(case: Case) -> None:
    sides, maps, weight = case.input("ltrb").requires_grad_(), case.input("x"), case.input("weight")
    made = star_offsets(sides / int(case.input("stride")), case.hyper["gradient_mul"])
    case.check("offsets", made)
    (made * case.input("cotangent")).sum().backward()
    case.check("grad_ltrb", sides.grad)
    conv = DeformConv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(weight)
        case.check("deform_y", conv(maps, made))


def _output(case: Case, logits: list[Tensor], sides: list[Tensor], initial: list[Tensor] | None = None) -> DenseOutput:
    priors = SQUARE.at(make_points([tuple(x.shape[-2:]) for x in logits], STRIDES))
    made = flatten_levels(sides)
    first = None if initial is None else boxes_from_distances(priors.points, flatten_levels(initial))
    return DenseOutput(flatten_levels(logits), made, boxes_from_distances(priors.points, made), priors, initial=first)


@dataclass(frozen=True)
class PaddingIsBackground:
    """ATSS whose anchors in the padding are no candidates, but count in the loss of classes, as the release has it."""

    atss: ATSS

    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        return replace(self.atss(priors, target, prediction), ignore=None)


def head(case: Case) -> None:
    hyper = case.hyper
    vfl = hyper["vfl"]
    losses = {
        "cls": Varifocal(vfl["alpha"], vfl["gamma"], vfl["iou_weighted"]),
        "initial": Initial(IoULoss("giou", "iou", eps=1e-6, least=1.0)),
        "box": IoULoss("giou", "iou", eps=1e-6, least=1.0),
    }
    weights = {"cls": vfl["weight"], "initial": hyper["giou_init"], "box": hyper["giou_refine"]}
    branch = DenseBranch(PaddingIsBackground(ATSS(hyper["topk"])), losses, Fixed(weights))
    keys = ("cls_logits", "ltrb_refined", "ltrb_init")
    maps = {key: [m.requires_grad_() for m in case.levels(key)] for key in keys}
    output = _output(case, *(maps[key] for key in keys))
    result = Objective({"branch": branch})({"branch": output}, targets_of(case))
    result.total.backward()
    for theirs, ours in (("loss_cls", "cls"), ("loss_bbox", "initial"), ("loss_bbox_rf", "box")):
        case.check(theirs, result.weighted[f"branch/{ours}"])
    case.check("total", result.total)
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")


def postprocess(case: Case) -> None:
    detections.compare(case, _output(case, case.levels("cls_logits"), case.levels("ltrb")))
