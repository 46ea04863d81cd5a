"""Replays the losses of coordinates and of distances, and Wise-IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from bifocals.losses import BalancedL1, SmoothL1, WiseIoU, distance_targets, distribution_focal_loss
from bifocals.structures import (
    DeltaCoder,
    DenseOutput,
    Loss,
    Matched,
    Matches,
    Priors,
    Target,
    boxes_from_distances,
    clip_boxes,
    distances_from_boxes,
)

from .case import Case
from .losses import check_pairs


class AsTheyAre(DeltaCoder):
    """Boxes are their own deltas: the cases give the deltas of targets, not the targets."""

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        return boxes


def _matched(values: Tensor, targets: Tensor) -> Matched:
    """An image with a pair for each row of deltas."""
    count = len(values)
    prior, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    priors = Priors(values.detach()[:, :2], torch.ones(count), (count,), torch.zeros(count, 4))
    output = DenseOutput(values.detach()[None, :, :1], values[None], values.detach()[None], priors)
    return Matched(output, [Target(targets, zero, zero.bool(), (1, 1), (1, 1))], Matches(zero, prior, prior))


def _coordinates(case: Case, loss: Loss) -> None:
    """A coordinate alone is a pair whose other three are predicted exactly."""
    values, targets = case.input("pred").requires_grad_(), case.input("target")
    alone = torch.where(torch.eye(4, dtype=torch.bool)[:, None], values, targets)  # [4, P, 4]
    elements = torch.stack([torch.stack([loss(_matched(v[None], t[None])) for v, t in zip(one, targets, strict=True)])
                            for one in alone], dim=1)
    case.check("loss_elementwise", elements)
    total = (elements * case.input("weight")).sum() / case.input("avg_factor")
    total.backward()
    case.check("loss", total)
    case.check("grad_pred", values.grad)


def smooth_l1(case: Case) -> None:
    """L1 is the case without a quadratic part."""
    _coordinates(case, SmoothL1(float(case.hyper.get("beta", 0)), AsTheyAre()))


def balanced_l1(case: Case) -> None:
    hyper = case.hyper
    _coordinates(case, BalancedL1(hyper["alpha"], hyper["gamma"], hyper["beta"], AsTheyAre()))


def wise_iou(case: Case) -> None:
    hyper, boxes = case.hyper, case.input("pred").requires_grad_()
    loss = WiseIoU(hyper["alpha"], hyper["delta"], hyper["momentum"], initial=hyper["iou_mean_init"])
    check_pairs(case, boxes, loss.rows(boxes, case.input("target")))


def distribution(case: Case) -> None:
    """The loss weight, which our losses do not have, is in the rows that were recorded."""
    logits = case.input("logits").requires_grad_()
    assert logits.shape[1] == case.hyper["reg_max"] + 1
    rows = case.hyper["loss_weight"] * distribution_focal_loss(logits, case.input("target"))
    total = (rows * case.input("weight")).sum() / case.input("avg_factor")
    total.backward()
    case.check("loss_rows", rows)
    case.check("loss", total)
    case.check("grad_logits", logits.grad)


def distances(case: Case) -> None:
    points, boxes = case.input("points"), case.input("gts")
    case.check("encoded", distances_from_boxes(points, boxes))
    case.check("encoded_capped", distance_targets(points, boxes, float(case.input("max_dis"))))
    decoded = boxes_from_distances(points, case.input("distances"))
    case.check("decoded", decoded)
    case.check("decoded_clip", clip_boxes(decoded, tuple(case.input("max_shape").tolist())))
