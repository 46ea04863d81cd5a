"""Replays ATSS: its assigner, and the losses of its head."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bifocals.assign import ATSS
from bifocals.balance import Fixed
from bifocals.losses import Centerness, Focal, IoULoss, centerness
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import (
    Anchors,
    DeltaCoder,
    DenseOutput,
    Matched,
    Matches,
    Priors,
    Target,
    distances_from_boxes,
    paired_iou,
)

from .assigners import target_of
from .branches import _of_level, anchored_output_of, targets_of
from .case import Case


def assigner(case: Case) -> None:
    hyper, boxes = case.hyper, case.input("anchors")
    sizes = tuple(case.input("anchors_per_level").tolist())
    priors = Priors((boxes[:, :2] + boxes[:, 2:]) / 2, torch.ones(len(boxes)), sizes, boxes)
    assigner = ATSS(hyper["topk"], padding=None, crowd_overlap=hyper.get("ignore_iof_thr"))
    targets = [target_of(case, i, (1, 1)) for i in range(case.num_images())]
    if case.has("img0_ignore_boxes"):
        targets = [replace(t, crowd_boxes=case.input(f"img{i}_ignore_boxes")) for i, t in enumerate(targets)]
    together = assigner.batch(priors, targets)
    for i, target in enumerate(targets):
        match = assigner(priors, target)
        assigned = torch.zeros(len(boxes), dtype=torch.int64)
        if match.ignore is not None:
            assigned[match.ignore] = -1
        assigned[match.prior] = match.gt + 1
        case.check(f"img{i}_assigned_gt", assigned)
        assert together.of_image(i).prior.tolist() == match.prior.tolist()
        if case.has(f"img{i}_iou"):
            iou = torch.zeros(len(boxes))
            iou[match.prior] = paired_iou(boxes[match.prior], target.boxes[match.gt])
            case.check(f"img{i}_iou", iou)


def head(case: Case) -> None:
    """mmdetection's ATSS head: one square anchor a point, losses of all levels under one normalizer."""
    hyper = case.hyper
    anchors, coder = Anchors(8.0, 1, (1.0,)), DeltaCoder(tuple(map(float, hyper["delta_stds"])))
    losses = {
        "cls": Focal(hyper["focal"]["alpha"], hyper["focal"]["gamma"], "local"),
        "box": IoULoss("giou", "centerness", eps=1e-6, least=1.0),
        "quality": Centerness("local"),
    }
    weights = {"cls": hyper["focal"]["weight"], "box": hyper["giou_weight"], "quality": hyper["centerness_weight"]}
    branch = DenseBranch(ATSS(hyper["topk"]), losses, Fixed(weights))
    maps = {k: [m.requires_grad_() for m in case.levels(k)] for k in ("cls_logits", "deltas", "ctr_logits")}
    output, targets = anchored_output_of(case, maps, anchors, coder), targets_of(case)
    result = Objective({"branch": branch})({"branch": output}, targets)
    result.total.backward()
    for theirs, ours in (("loss_cls", "cls"), ("loss_bbox", "box"), ("loss_centerness", "quality")):
        case.check(theirs, result.weighted[f"branch/{ours}"])
        part = _box_of_level if ours == "box" else _of_level
        parts = [part(branch, ours, output, targets, level) for level in range(len(output.priors.level_sizes))]
        case.check(f"{theirs}_per_level", torch.stack(parts) * weights[ours])
    case.check("total", result.total)
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")


def _box_of_level(branch: DenseBranch, name: str, output: DenseOutput, targets: list[Target], level: int) -> Tensor:
    """The part of the box loss that one level gives, divided by the centerness of all levels."""
    whole = branch.match(output, targets)
    keep = output.priors.level_index()[whole.prior] == level
    mine = Matched(output, targets, Matches(whole.image[keep], whole.prior[keep], whole.gt[keep]))
    sums = [centerness(distances_from_boxes(m.points, m.target_boxes)).sum().clamp(min=1)
            for m in (mine, Matched(output, targets, whole))]
    return branch.losses[name](mine) * sums[0] / sums[1]
