"""Replays how an RPN's maps become proposals."""

from __future__ import annotations

import re

from bifocals.networks import RPN_ANCHORS, ProposalChoice, flatten_levels
from bifocals.structures import Anchors, DeltaCoder, DenseOutput, make_points

from .case import Case


def proposals(case: Case) -> None:
    hyper = case.hyper
    choice = ProposalChoice(hyper["nms_pre"], hyper["nms_iou"], hyper["max_per_img"], hyper["min_bbox_size"])
    logits, deltas = case.levels("cls_logits"), case.levels("deltas")
    strides = [int(s) for s in re.findall(r"\d+", case.meta["arrays"]["cls_logits_0"]["desc"].partition("stride")[2])]
    anchors = Anchors(float(hyper.get("anchor_scale", RPN_ANCHORS.base_scale)), 1)
    priors = anchors.at(make_points([tuple(x.shape[-2:]) for x in logits], strides))
    flat = flatten_levels(deltas).unflatten(2, (len(anchors), 4)).flatten(1, 2)
    output = DenseOutput(flatten_levels(logits).flatten(1)[..., None], flat,
                         DeltaCoder().decode(priors.boxes, flat), priors)
    sizes = [tuple(s) for s in case.input("img_shapes").tolist()]
    for i, found in enumerate(choice(output, sizes)):
        case.check(f"img{i}_boxes", found.boxes, "boxes")
        case.check(f"img{i}_scores", found.scores, "scores")
