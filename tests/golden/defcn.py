"""Replays what DeFCN adds: 3D max filtering, its filtered scores in DATE's branch, and the auxiliary assignment."""

from __future__ import annotations

import torch

from bifocals.assign import POTO, POTOAux
from bifocals.balance import Fixed
from bifocals.losses import L1, Focal, IoULoss
from bifocals.networks import MaxFilter3D, filtered_logits, flatten_levels
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Prediction, boxes_from_distances

from . import assigners, branches
from .case import Case


def poto(case: Case) -> None:
    """The one-to-one assignment in both conventions, and the one-to-many assignment of the auxiliary loss."""
    assigners.poto(case)
    priors, assigner = assigners.priors_of(case), POTOAux(case.hyper["alpha"])
    height, width = case.input("img_shape").tolist()
    for i in range(case.num_images()):
        if not case.has(f"img{i}_defcn_aux_pos"):
            continue
        target = assigners.target_of(case, i, (height, width))
        sides = case.input(f"img{i}_ltrb")
        prediction = Prediction(case.input(f"img{i}_logits"), boxes_from_distances(priors.points, sides), sides)
        match = assigner(priors, target, prediction)
        order = match.prior.argsort()
        case.check(f"img{i}_defcn_aux_pos", match.prior[order])
        case.check(f"img{i}_defcn_aux_label", target.labels[match.gt[order]])


def max_filtering(case: Case) -> None:
    """The module with and without its norm, and the gradients of the first."""
    levels = [x.requires_grad_() for x in case.levels("x")]
    hyper, channels = case.hyper, levels[0].shape[1]
    conv = {name: case.input(f"w_conv__{name}") for name in ("weight", "bias")}
    filters = MaxFilter3D(channels, hyper["groups"], hyper["tau"], hyper["kernel"])
    filters.conv.load_state_dict(conv)
    filters.norm.load_state_dict({name: case.input(f"w_norm__{name}") for name in ("weight", "bias")})
    outputs = filters(levels)
    cotangents = case.levels("cotangent")
    torch.stack([(y * c).sum() for y, c in zip(outputs, cotangents, strict=True)]).sum().backward()
    for i, (x, y) in enumerate(zip(levels, outputs, strict=True)):
        case.check(f"y_{i}", y)
        case.check(f"grad_x_{i}", x.grad)
    case.check("grad_conv_weight", filters.conv.weight.grad)
    plain = MaxFilter3D(channels, None, hyper["tau"], hyper["kernel"])
    plain.conv.load_state_dict(conv)
    with torch.no_grad():
        for i, y in enumerate(plain(levels)):
            case.check(f"y_no_groupnorm_{i}", y)


def one2one_filtered(case: Case) -> None:
    """DATE's one-to-one branch on filtered scores."""
    hyper = case.hyper
    keys = ("cls_logits", "ltrb", "filter_logits")
    maps = {key: [m.requires_grad_() for m in case.levels(key)] for key in keys}
    raw = branches.output_of(case, {key: maps[key] for key in ("cls_logits", "ltrb")})
    logits = filtered_logits(raw.logits, flatten_levels(maps["filter_logits"])[..., 0])
    output = type(raw)(logits, raw.deltas, raw.boxes, raw.priors, unfiltered=raw.logits)
    assigner = POTO(hyper["alpha"], hyper["radius"])
    losses = {"cls": Focal(hyper["focal"]["alpha"], hyper["focal"]["gamma"]), "l1": L1("cxcywh"),
              "giou": IoULoss("giou", eps=1e-6)}
    weights = {"cls": hyper["cls_weight"], "l1": hyper["l1_weight"], "giou": hyper["giou_weight"]}
    targets = branches.targets_of(case)
    result = Objective({"branch": DenseBranch(assigner, losses, Fixed(weights))})({"branch": output}, targets)
    result.total.backward()
    for theirs, ours in (("loss_o2o_cls", "cls"), ("loss_o2o_box", "l1"), ("loss_o2o_iou", "giou")):
        case.check(theirs, result.weighted[f"branch/{ours}"])
    case.check("total", result.total)
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")
    for i, target in enumerate(targets):
        match = assigner(output.priors, target, output.prediction(i))
        branches._check_match(case, f"img{i}", match, target)
