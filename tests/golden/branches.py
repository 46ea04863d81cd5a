"""Replays whole branches: maps in, losses and their gradients out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bifocals.assign import FCOS, POTO, MaxIoU, MinCost
from bifocals.balance import Fixed
from bifocals.losses import L1, Centerness, Focal, IoULoss, SmoothL1
from bifocals.networks import flatten_levels
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import (
    Anchors,
    DeltaCoder,
    DenseOutput,
    Match,
    Matched,
    Matches,
    Priors,
    Target,
    boxes_from_distances,
    make_points,
)

from .assigners import target_of
from .case import Case

STRIDES = (8, 16, 32, 64, 128)


def targets_of(case: Case) -> list[Target]:
    sizes = case.input("img_shapes").tolist()
    return [target_of(case, i, (h, w)) for i, (h, w) in enumerate(sizes)]


def output_of(case: Case, maps: Mapping[str, list[Tensor]], in_strides: bool = False) -> DenseOutput:
    priors = make_points([tuple(x.shape[-2:]) for x in maps["cls_logits"]], STRIDES)
    sides = flatten_levels(maps["ltrb"])
    if in_strides:
        sides = sides * priors.strides[:, None]
    quality = flatten_levels(maps["ctr_logits"])[..., 0] if "ctr_logits" in maps else None
    boxes = boxes_from_distances(priors.points, sides)
    return DenseOutput(flatten_levels(maps["cls_logits"]), sides, boxes, priors, quality)


def _replay(case: Case, branch: DenseBranch, names: Mapping[str, str], in_strides: bool = False) -> None:
    keys = [k for k in ("cls_logits", "ltrb", "ctr_logits") if case.has(f"{k}_0")]
    maps = {k: [m.requires_grad_() for m in case.levels(k)] for k in keys}
    losses = Objective({"branch": branch})({"branch": output_of(case, maps, in_strides)}, targets_of(case))
    losses.total.backward()
    for theirs, ours in names.items():
        case.check(theirs, losses.weighted[f"branch/{ours}"])
    case.check("total", losses.total)
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")


def _fcos_losses(hyper: dict, box: IoULoss) -> dict:
    focal = hyper.get("focal", {"alpha": 0.25, "gamma": 2})
    return {"cls": Focal(focal["alpha"], focal["gamma"]), "box": box, "quality": Centerness()}


def fcos(case: Case) -> None:
    """The FCOS heads of mmdetection."""
    hyper = case.hyper
    kind = {"IoULoss": "log", "GIoULoss": "giou"}[hyper["loss_bbox"]["type"]]
    box = IoULoss(kind, "centerness", 1e-6 if kind == "log" else 1e-7)
    weights = {"cls": hyper["focal"]["weight"], "box": hyper["loss_bbox"]["loss_weight"],
               "quality": hyper["centerness_weight"]}
    assigner = FCOS(hyper["center_sample_radius"] if hyper.get("center_sampling") else None)
    branch = DenseBranch(assigner, _fcos_losses(hyper, box), Fixed(weights))
    names = {"loss_cls": "cls", "loss_bbox": "box", "loss_centerness": "quality"}
    _replay(case, branch, names, in_strides=hyper.get("norm_on_bbox", False))


def date_fcos(case: Case) -> None:
    """DATE's one-to-many branch in FCOS style."""
    hyper = case.hyper
    assert not hyper["center_sampling"] and not hyper["norm_on_bbox"] and hyper["box"] == "-log(IoU)"
    weights = dict(zip(("cls", "box", "quality"), hyper["weights"], strict=True))
    branch = DenseBranch(FCOS(), _fcos_losses(hyper, IoULoss("log", "centerness", 1e-6)), Fixed(weights))
    _replay(case, branch, {"loss_fcos_cls": "cls", "loss_fcos_iou": "box", "loss_fcos_ctr": "quality"})


def anchored_output_of(
    case: Case, maps: Mapping[str, list[Tensor]], anchors: Anchors, coder: DeltaCoder
) -> DenseOutput:
    """The dense output of an anchor head's maps, channels anchor-major."""
    num_classes = int(case.input("num_classes"))
    priors = anchors.at(make_points([tuple(x.shape[-2:]) for x in maps["cls_logits"]], STRIDES))
    logits = flatten_levels(maps["cls_logits"]).unflatten(2, (len(anchors), num_classes)).flatten(1, 2)
    deltas = flatten_levels(maps["deltas"]).unflatten(2, (len(anchors), 4)).flatten(1, 2)
    quality = flatten_levels(maps["ctr_logits"]).flatten(1) if "ctr_logits" in maps else None
    return DenseOutput(logits, deltas, coder.decode(priors.boxes, deltas), priors, quality)


def retina(case: Case) -> None:
    """RetinaNet heads: mmdetection's, and DATE's one-to-many branch."""
    hyper = case.hyper
    made = hyper.get("anchors", {})
    anchors = Anchors(float(made.get("octave_base_scale", 4)), made.get("scales_per_octave", 3),
                      tuple(map(float, made.get("ratios", (0.5, 1.0, 2.0)))))
    coder = DeltaCoder(tuple(float(s) for s in hyper.get("delta_stds", (1, 1, 1, 1))))
    focal = hyper.get("focal", {"alpha": 0.25, "gamma": 2})
    kind = hyper.get("loss_bbox", {"type": "L1Loss"})["type"]
    box = {"L1Loss": SmoothL1(0.0, coder, "local"), "GIoULoss": IoULoss("giou", eps=1e-6, normalizer="local")}[kind]
    weights = hyper.get("weights", [1, hyper.get("loss_bbox", {}).get("loss_weight", 1)])
    losses = {"cls": Focal(focal["alpha"], focal["gamma"], "local"), "box": box}
    assigner = MaxIoU(hyper["assigner"]["pos"], hyper["assigner"]["neg"], True, hyper["assigner"]["min_pos"])
    branch = DenseBranch(assigner, losses, Fixed(dict(zip(("cls", "box"), weights, strict=True))))

    maps = {k: [m.requires_grad_() for m in case.levels(k)] for k in ("cls_logits", "deltas")}
    output, targets = anchored_output_of(case, maps, anchors, coder), targets_of(case)
    result = Objective({"branch": branch})({"branch": output}, targets)
    result.total.backward()
    recorded_box = "loss_bbox" if case.has("loss_bbox") else "loss_box"
    for theirs, ours in (("loss_cls", "cls"), (recorded_box, "box")):
        case.check(theirs, result.weighted[f"branch/{ours}"])
        parts = [_of_level(branch, ours, output, targets, level) for level in range(len(output.priors.level_sizes))]
        case.check(f"{theirs}_per_level", torch.stack(parts) * weights[("cls", "box").index(ours)])
    case.check("total", result.total)
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")


def _of_level(branch: DenseBranch, name: str, output: DenseOutput, targets: list[Target], level: int) -> Tensor:
    """The part of a loss that one level gives, divided as the whole is: the loss with every other prior left out."""
    whole = branch.match(output, targets)
    elsewhere = output.priors.level_index() != level
    keep = ~elsewhere[whole.prior]
    ignore = elsewhere.expand(len(targets), -1) if whole.ignore is None else whole.ignore | elsewhere
    matched = Matched(output, targets, Matches(whole.image[keep], whole.prior[keep], whole.gt[keep], ignore))
    divisor = matched.normalizer("local") / Matched(output, targets, whole).normalizer("local")
    return branch.losses[name](matched) * divisor


def date_one2one(case: Case) -> None:
    """DATE's one-to-one branch, with POTO or with OneNet's cost."""
    hyper = case.hyper
    if "cost" in hyper:
        cost = hyper["cost"]
        assigner = MinCost(cost["cls"], cost["l1"], cost["giou"], box_format=cost["l1_format"])
    else:
        assigner = POTO(hyper["alpha"], hyper["radius"])
    losses = {"cls": Focal(hyper["focal"]["alpha"], hyper["focal"]["gamma"]), "l1": L1("cxcywh"),
              "giou": IoULoss("giou", eps=1e-6)}
    weights = {"cls": hyper["cls_weight"], "l1": hyper["l1_weight"], "giou": hyper["giou_weight"]}
    branch = DenseBranch(assigner, losses, Fixed(weights))
    _replay(case, branch, {"loss_o2o_cls": "cls", "loss_o2o_box": "l1", "loss_o2o_iou": "giou"})
    maps = {k: case.levels(k) for k in ("cls_logits", "ltrb")}
    output = output_of(case, maps)
    for i, target in enumerate(targets_of(case)):
        match = assigner(output.priors, target, output.prediction(i))
        _check_match(case, f"img{i}", match, target)


def onenet_original(case: Case) -> None:
    """The original OneNet: L1 in xyxy, by Hungarian and by each object's cheapest prior."""
    hyper, points = case.hyper, case.input("points")
    priors = Priors(points, torch.ones(len(points)), (len(points),))
    targets = [target_of(case, i, (h, w)) for i, (h, w) in enumerate(case.input("image_shapes").tolist())]
    for prefix, solver in (("hungarian", "hungarian"), ("mincost", "argmin")):
        cost, weight = hyper["cost"], hyper["loss"]
        assigner = MinCost(cost["cls"], cost["l1"], cost["giou"], "xyxy", solver, hyper["alpha"], hyper["gamma"],
                           hyper["cost_eps"])
        losses = {"cls": Focal(hyper["alpha"], hyper["gamma"]), "l1": L1("xyxy"), "giou": IoULoss("giou")}
        weights = {"cls": weight["cls"], "l1": weight["l1"], "giou": weight["giou"]}
        branch = DenseBranch(assigner, losses, Fixed(weights))
        logits, ltrb = case.input("logits").clone().requires_grad_(), case.input("ltrb").clone().requires_grad_()
        output = DenseOutput(logits, ltrb, boxes_from_distances(points, ltrb), priors)
        result = Objective({"branch": branch})({"branch": output}, targets)
        result.total.backward()
        for i, target in enumerate(targets):
            _check_match(case, f"{prefix}_img{i}", assigner(priors, target, output.prediction(i)), target)
        case.check(f"{prefix}_loss_ce", result.raw["branch/cls"])
        case.check(f"{prefix}_loss_giou", result.raw["branch/giou"])
        case.check(f"{prefix}_loss_bbox", result.raw["branch/l1"])
        case.check(f"{prefix}_total", result.total)
        case.check(f"{prefix}_grad_logits", logits.grad, "gradients")
        case.check(f"{prefix}_grad_ltrb", ltrb.grad, "gradients")


def _check_match(case: Case, prefix: str, match: Match, target: Target) -> None:
    def pairs(prior: Tensor, gt: Tensor) -> list[tuple]:
        return sorted((p, tuple(target.boxes[g].tolist()), int(target.labels[g]))
                      for p, g in zip(prior.tolist(), gt.tolist(), strict=True))

    assert pairs(match.prior, match.gt) == pairs(case.output(f"{prefix}_pos"), case.output(f"{prefix}_pos_gt"))
