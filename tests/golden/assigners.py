"""Replays the assigners: each takes the recorded predictions and must name the recorded pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bifocals.assign import FCOS, POTO, MaxIoU, MinCost
from bifocals.losses import centerness
from bifocals.structures import Match, Prediction, Priors, Target, boxes_from_distances, distances_from_boxes

from .case import Case


def target_of(case: Case, image: int, size_hw: tuple[int, int]) -> Target:
    boxes, labels = case.input(f"img{image}_gt_boxes"), case.input(f"img{image}_gt_labels")
    return Target(boxes, labels, torch.zeros(len(labels), dtype=torch.bool), size_hw, size_hw)


def priors_of(case: Case) -> Priors:
    points = case.input("points")
    sizes = tuple(case.input("points_per_level").tolist()) if case.has("points_per_level") else (len(points),)
    strides = case.input("strides") if case.has("strides") else torch.full((len(points),), float("nan"))
    return Priors(points, strides, sizes)


def fcos(case: Case) -> None:
    hyper = case.hyper
    priors, num_classes = priors_of(case), int(case.input("num_classes"))
    # The case gives no strides; it names the levels of a pyramid whose finest neighbors tell the stride.
    starts = np.cumsum([0, *priors.level_sizes[:-1]])
    steps = [2 * float(priors.points[s].min()) for s in starts]
    strides = torch.cat([torch.full((n,), s) for n, s in zip(priors.level_sizes, steps, strict=True)])
    priors = Priors(priors.points, strides, priors.level_sizes)
    assigner = FCOS(
        hyper["center_sample_radius"] if hyper["center_sampling"] else None,
        tuple((low, high) for low, high in hyper["regress_ranges"]),
    )
    for i in range(case.num_images()):
        target = target_of(case, i, (1, 1))
        match = assigner(priors, target)
        labels = torch.full((len(priors),), num_classes)
        labels[match.prior] = target.labels[match.gt]
        case.check(f"img{i}_labels", labels)
        sides = distances_from_boxes(priors.points[match.prior], target.boxes[match.gt])
        ltrb = torch.zeros(len(priors), 4)
        ltrb[match.prior] = sides / strides[match.prior, None] if hyper["norm_on_bbox"] else sides
        case.check(f"img{i}_ltrb", ltrb, "ltrb")
        case.check(f"img{i}_centerness", centerness(sides), "centerness")


def max_iou(case: Case) -> None:
    hyper = case.hyper
    crowd = hyper["ignore_iof_thr"] if hyper["ignore_iof_thr"] > 0 else None
    assigner = MaxIoU(hyper["pos_iou_thr"], hyper["neg_iou_thr"], hyper.get("match_low_quality", True),
                      hyper["min_pos_iou"], padding=None, crowd_overlap=crowd)
    for i in range(case.num_images()):
        boxes = case.input(f"img{i}_priors")
        priors = Priors((boxes[:, :2] + boxes[:, 2:]) / 2, torch.ones(len(boxes)), (len(boxes),), boxes)
        target = target_of(case, i, (1, 1))
        if case.has(f"img{i}_ignore_boxes"):
            target = replace(target, crowd_boxes=case.input(f"img{i}_ignore_boxes"))
        match, overlaps = assigner(priors, target), assigner.overlaps(priors, target)
        assigned = torch.zeros(len(priors), dtype=torch.int64)
        if match.ignore is not None:
            assigned[match.ignore] = -1
        assigned[match.prior] = match.gt + 1
        case.check(f"img{i}_assigned_gt", assigned)
        labels = torch.full_like(assigned, -1)
        labels[match.prior] = target.labels[match.gt]
        case.check(f"img{i}_assigned_label", labels)
        empty = torch.zeros(len(priors))
        case.check(f"img{i}_max_iou", overlaps.amax(dim=1) if overlaps.shape[1] else empty)


def poto(case: Case) -> None:
    hyper, priors = case.hyper, priors_of(case)
    height, width = case.input("img_shape").tolist()
    alpha, radius = hyper["alpha"], hyper["center_sampling_radius"]
    for i in range(case.num_images()):
        target = target_of(case, i, (height, width))
        boxes = boxes_from_distances(priors.points, case.input(f"img{i}_ltrb"))
        prediction = Prediction(case.input(f"img{i}_logits"), boxes, case.input(f"img{i}_ltrb"))
        date = POTO(alpha, radius, "zero")
        quality = date.quality(priors, target, prediction)
        if case.has(f"img{i}_mask_count"):
            case.check(f"img{i}_mask_count", date.candidates(priors, target).sum(0))
            case.check(f"img{i}_quality_sum", quality.sum())
        _check_pairs(case, f"img{i}_date", date(priors, target, prediction), quality, target)
        for prefix, variant in ((f"img{i}_defcn", POTO(alpha, radius, "minus_one")),
                                (f"img{i}_defcn_radius0", POTO(alpha, 0, "minus_one"))):
            _check_labels(case, prefix, variant, priors, target, prediction)


def _check_pairs(case: Case, prefix: str, match: Match, quality: Tensor, target: Target) -> None:
    """Pairs of positive quality must agree; pairs of quality 0 are arbitrary, so their number and the total must."""
    prior, gt = case.output(f"{prefix}_pos"), case.output(f"{prefix}_pos_gt")
    theirs = quality[prior, gt]
    ours = quality[match.prior, match.gt]
    if case.has(f"{prefix.removesuffix('_date')}_quality_at_pos"):
        case.check(f"{prefix.removesuffix('_date')}_quality_at_pos", theirs)
    assert len(ours) == len(theirs)
    torch.testing.assert_close(ours.sum(), theirs.sum(), rtol=1e-6, atol=1e-6)
    assert _identities(match.prior, match.gt, ours > 0, target) == _identities(prior, gt, theirs > 0, target)


def _check_labels(case: Case, prefix: str, assigner: POTO, priors: Priors, target: Target, pred: Prediction) -> None:
    # DeFCN's record holds no object numbers: a pair is the point, the label and the box it was given.
    quality, match = assigner.quality(priors, target, pred), assigner(priors, target, pred)
    prior, label, sides = (case.output(f"{prefix}_{k}") for k in ("pos", "label", "ltrb"))
    if len(prior) == 0:
        assert len(match.prior) == 0
        return
    same = (target.labels == label[:, None]) & (
        (target.boxes - boxes_from_distances(priors.points[prior], sides)[:, None]).abs().amax(-1) < 1e-2
    )
    assert same.any(1).all(), f"{case.name}: {prefix} names an object that is not there"
    gt = same.int().argmax(1)
    ours, theirs = quality[match.prior, match.gt], quality[prior, gt]
    torch.testing.assert_close(ours.sum(), theirs.sum(), rtol=1e-5, atol=1e-5)
    assert _identities(match.prior, match.gt, ours > 0, target) == _identities(prior, gt, theirs > 0, target)


def _identities(prior: Tensor, gt: Tensor, keep: Tensor, target: Target) -> list[tuple]:
    """Pairs as (prior, box, label): objects with the same box and label may swap."""
    return sorted((int(p), tuple(target.boxes[g].tolist()), int(target.labels[g]))
                  for p, g in zip(prior[keep], gt[keep], strict=True))


def hungarian(case: Case) -> None:
    hyper = case.hyper
    assigner = MinCost(
        hyper["cls_weight"], hyper["l1_weight"], hyper["giou_weight"],
        box_format="cxcywh" if hyper["box_format"].startswith("cxcywh") else "xyxy",
        focal_alpha=hyper["focal_alpha"], focal_gamma=hyper["focal_gamma"], eps=hyper["eps"],
    )
    priors = Priors(case.input("points"), case.input("strides"), (len(case.input("points")),))
    height, width = case.input("img_shape").tolist()
    for i in range(case.num_images()):
        target = target_of(case, i, (height, width))
        boxes = case.input(f"img{i}_boxes")
        prediction = Prediction(case.input(f"img{i}_logits"), boxes, boxes)
        match = assigner(priors, target, prediction)
        prior, gt = case.output(f"img{i}_pos"), case.output(f"img{i}_pos_gt")
        every = torch.ones(len(prior), dtype=torch.bool)
        assert _identities(match.prior, match.gt, every, target) == _identities(prior, gt, every, target)
        if case.has(f"img{i}_cost_rows"):
            terms = assigner.cost_terms(target, prediction)  # [3, P, G]
            rows = case.arrays[f"img{i}_cost_rows"].shape[1]
            case.check(f"img{i}_cost_rows", terms[:, :rows])
            case.check(f"img{i}_cost_at_pos", terms[:, prior, gt].T)
            case.check(f"img{i}_cost_sum", terms.sum(), "total cost")
