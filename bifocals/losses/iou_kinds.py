"""The formulas of the IoU losses, a row for each pair of boxes; torchvision's arithmetic where it has it.

Letters: M pairs.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from bifocals.structures import paired_iou

IoUKind = Literal[
    "linear", "square", "log", "giou", "diou", "ciou", "ciou_gated", "ciou_wise", "eiou", "eiou_wise", "extended_eiou",
    "focal_eiou", "siou", "siou_mmdet", "alpha_iou", "alpha_giou", "alpha_diou", "alpha_ciou",
]  # fmt: skip


def iou_loss(
    boxes: Float[Tensor, "M 4"],
    targets: Float[Tensor, "M 4"],
    kind: IoUKind = "giou",
    eps: float = 1e-7,
    *,
    alpha: float = 3.0,
    gamma: float = 0.5,
) -> Float[Tensor, "M"]:
    """Loss of each pair of xyxy boxes.

    linear: 1 - IoU. square: 1 - IoU^2. log: -ln IoU, the IoU clamped below at `eps` (arXiv:1608.01471).
    giou: arXiv:1902.09630. diou, ciou: arXiv:1911.08287. ciou_gated: CIoU whose aspect term is switched off at
    IoU <= 0.5, as that paper's released code and mmdetection have it. ciou_wise: CIoU of the Wise-IoU release, 1e-4 px
    added to the heights of the aspect term. eiou: Efficient IoU (arXiv:2101.08158): width and height differences, each
    against the enclosing box. eiou_wise: what the Wise-IoU release calls EIoU, with the differences of the centers in
    that place. extended_eiou: Extended IoU, what mmdetection calls EIoU: the intersection of disjoint boxes is
    negative, and the loss is quadratic below .1. focal_eiou: IoU^gamma * eiou, the factor without gradient. siou:
    arXiv:2205.12740. siou_mmdet: mmdetection's default of it, whose distance cost has the other sign and so *falls*
    with distance. alpha_*: arXiv:2110.13675, IoU and penalty each to the power `alpha`.
    """
    match kind:
        case "linear":
            return 1 - paired_iou(boxes, targets, eps)
        case "square":
            return 1 - paired_iou(boxes, targets, eps).clamp(min=eps) ** 2
        case "log":
            return -paired_iou(boxes, targets, eps).clamp(min=eps).log()
        case "giou":
            return generalized_box_iou_loss(boxes, targets, eps=eps)
        case "diou":
            return distance_box_iou_loss(boxes, targets, eps=eps)
        case "ciou":
            return complete_box_iou_loss(boxes, targets, eps=eps)
        case "ciou_gated":
            iou, aspect = paired_iou(boxes, targets, eps), _aspect(boxes, targets, eps)
            weight = (iou > 0.5) * _aspect_weight(iou, aspect, eps)
            return 1 - (1 - distance_box_iou_loss(boxes, targets, eps=eps) - weight * aspect).clamp(-1, 1)
        case "ciou_wise":
            aspect = _aspect(boxes, targets, 1e-4)
            weight = _aspect_weight(paired_iou(boxes, targets, eps), aspect, eps)
            return distance_box_iou_loss(boxes, targets, eps=eps) + weight * aspect
        case "eiou" | "focal_eiou":
            _, sides, target_sides, hull = _shapes(boxes, targets)
            rows = distance_box_iou_loss(boxes, targets, eps=eps)
            rows = rows + ((sides - target_sides) ** 2 / (hull**2 + eps)).sum(-1)
            return rows if kind == "eiou" else rows * paired_iou(boxes, targets, eps).detach() ** gamma
        case "eiou_wise":
            offset, _, _, hull = _shapes(boxes, targets)
            return distance_box_iou_loss(boxes, targets, eps=eps) + (offset**2 / (hull**2 + eps)).sum(-1)
        case "extended_eiou":
            return _extended(boxes, targets, eps)
        case "siou" | "siou_mmdet":
            return _siou(boxes, targets, eps, 1 if kind == "siou" else -1)
        case "alpha_iou" | "alpha_giou" | "alpha_diou" | "alpha_ciou":
            return _alpha(boxes, targets, kind, alpha, eps)
    raise ValueError(f"iou_loss knows the kinds {get_args(IoUKind)}, got {kind!r}.")


class _Shapes(NamedTuple):
    """Pixels along x and y, [M, 2] each: from center to target center, sides, sides of the target, of the hull."""

    offset: Tensor
    sides: Tensor
    target_sides: Tensor
    hull: Tensor


def _shapes(boxes: Tensor, targets: Tensor) -> _Shapes:
    low, high, target_low, target_high = boxes[:, :2], boxes[:, 2:], targets[:, :2], targets[:, 2:]
    hull = torch.maximum(high, target_high) - torch.minimum(low, target_low)
    return _Shapes((target_low + target_high - low - high) / 2, high - low, target_high - target_low, hull)


def _aspect(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    """CIoU's v, arXiv:1911.08287 Eq. 9: how far apart the aspect ratios are, in [0, 1]."""
    (width, height), (target_width, target_height) = (s.unbind(-1) for s in _shapes(boxes, targets)[1:3])
    angle = torch.atan(target_width / (target_height + eps)) - torch.atan(width / (height + eps))
    return 4 / math.pi**2 * angle**2


@torch.no_grad()
def _aspect_weight(iou: Tensor, aspect: Tensor, eps: float) -> Tensor:
    """CIoU's trade-off, arXiv:1911.08287 Eq. 11; 0, not NaN, for equal boxes."""
    return aspect / (1 - iou + aspect).clamp(min=eps)


def _extended(boxes: Tensor, targets: Tensor, eps: float, smooth: float = 0.1) -> Tensor:
    """1 - extended IoU, turned into a Huber loss that is quadratic below `smooth`."""
    _, sides, target_sides, _ = _shapes(boxes, targets)
    corner = torch.minimum(boxes[:, :2], targets[:, :2])
    enter = torch.maximum(boxes[:, :2], targets[:, :2]) - corner  # from the hull's corner, >= 0
    leave = torch.minimum(boxes[:, 2:], targets[:, 2:]) - corner
    near, far = torch.minimum(enter, leave), torch.maximum(enter, leave)
    # Areas of four boxes that start at the hull's corner; for boxes that overlap, their plain intersection.
    intersection = leave.prod(-1) + near.prod(-1) - enter[:, 0] * far[:, 1] - far[:, 0] * enter[:, 1]
    union = sides.prod(-1) + target_sides.prod(-1) - intersection
    distance = 1 - intersection / (union + eps)
    return torch.where(distance < smooth, distance**2 / (2 * smooth), distance - smooth / 2)


def _siou(boxes: Tensor, targets: Tensor, eps: float, sign: int) -> Tensor:
    """1 - IoU + (distance cost + shape cost) / 2; `sign` is the one of the distance cost's exponent."""
    offset, sides, target_sides, hull = _shapes(boxes, targets)
    offset, nudge = offset + eps, sides.new_tensor([0.0, eps])
    sides, target_sides = sides + nudge, target_sides + nudge
    # The paper's sin(2 arcsin x) with x the sine of the smaller angle between the offset and an axis.
    angle = 2 * offset.prod(-1).abs() / (offset**2).sum(-1)
    distance = 1 - torch.exp(sign * (angle - 2)[:, None] * (offset / hull) ** 2)
    shape = (1 - torch.exp(-(sides - target_sides).abs() / torch.maximum(sides, target_sides))) ** 4
    similarity = paired_iou(boxes, targets, eps) - (distance + shape).sum(-1) / 2
    return 1 - similarity.clamp(-1, 1)


def _alpha(boxes: Tensor, targets: Tensor, kind: IoUKind, alpha: float, eps: float) -> Tensor:
    """1 - IoU^alpha + penalty^alpha; `eps` inside of the powers, so that a power below 1 has a finite slope at 0."""
    offset, sides, target_sides, hull = _shapes(boxes, targets)
    iou = paired_iou(boxes, targets, eps)
    rows = 1 - (iou + eps) ** alpha
    if kind == "alpha_giou":
        enclosing = hull.prod(-1)
        intersection = (sides + target_sides - hull).clamp(min=0).prod(-1)
        union = sides.prod(-1) + target_sides.prod(-1) - intersection
        return rows + ((enclosing - union).clamp(min=0) / enclosing.clamp(min=eps) + eps) ** alpha
    if kind in ("alpha_diou", "alpha_ciou"):
        rows = rows + ((offset**2).sum(-1) / (hull**2).sum(-1).clamp(min=eps) + eps) ** alpha
    if kind == "alpha_ciou":
        aspect = _aspect(boxes, targets, eps)
        rows = rows + (_aspect_weight(iou, aspect, eps) * aspect + eps) ** alpha
    return rows
