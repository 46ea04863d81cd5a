"""IoU losses on decoded boxes; torchvision's arithmetic where it has it.

Letters: M pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from bifocals.structures import Matched, distances_from_boxes, paired_iou, sum_over_ranks, world_size

from .centerness import centerness

IoUKind = Literal["linear", "square", "log", "giou", "diou", "ciou", "ciou_gated"]


def iou_loss(
    boxes: Float[Tensor, "M 4"], targets: Float[Tensor, "M 4"], kind: IoUKind = "giou", eps: float = 1e-7
) -> Float[Tensor, "M"]:
    """Loss of each pair of xyxy boxes.

    linear: 1 - IoU. square: 1 - IoU^2. log: -ln IoU, the IoU clamped below at `eps` (arXiv:1608.01471).
    giou: arXiv:1902.09630. diou, ciou: arXiv:1911.08287. ciou_gated: CIoU whose aspect term is switched off at
    IoU <= 0.5, as that paper's released code and mmdetection have it.
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
            return _gated_ciou_loss(boxes, targets, eps)
    raise ValueError(f"iou_loss knows the kinds {get_args(IoUKind)}, got {kind!r}.")


def _gated_ciou_loss(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    iou = paired_iou(boxes, targets, eps)
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(-1)
    target_width, target_height = (targets[:, 2:] - targets[:, :2]).unbind(-1)
    angle = torch.atan(target_width / (target_height + eps)) - torch.atan(width / (height + eps))
    aspect = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        weight = (iou > 0.5) * aspect / (1 - iou + aspect).clamp(min=eps)
    similarity = 1 - distance_box_iou_loss(boxes, targets, eps=eps) - weight * aspect
    return 1 - similarity.clamp(-1, 1)


@dataclass(frozen=True)
class IoULoss:
    """An IoU loss over the pairs, their mean or their centerness-weighted mean.

    weight: "none" divides the sum by the number of positives. "centerness" is FCOS's: each pair counts by the
    centerness of its point in the target box, and the sum is divided by the sum of the weights (over ranks).
    """

    kind: IoUKind = "giou"
    weight: Literal["none", "centerness"] = "none"
    eps: float = 1e-7

    def __post_init__(self) -> None:
        if self.kind not in get_args(IoUKind):
            raise ValueError(f"IoULoss knows the kinds {get_args(IoUKind)}, got {self.kind!r}.")
        if self.weight not in ("none", "centerness"):
            raise ValueError(f"IoULoss expected weight 'none' or 'centerness', got {self.weight!r}.")

    def __call__(self, matched: Matched) -> Tensor:
        rows = iou_loss(matched.boxes, matched.target_boxes, self.kind, self.eps)
        if self.weight == "none":
            return rows.sum() / matched.num_positive
        with torch.no_grad():
            weights = centerness(distances_from_boxes(matched.points, matched.target_boxes))
            divisor = sum_over_ranks(weights.sum()).clamp(min=1e-6) / world_size()
        return (rows * weights).sum() / divisor
