"""Boxes are float xyxy pixels without the legacy +1: width = x2 - x1.

Letters: N, M boxes; P points. Every function accepts leading dimensions; points and boxes broadcast.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Area in square pixels; negative sides count as zero."""
    width_height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return width_height[..., 0] * width_height[..., 1]


def pairwise_intersection(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B M 4"]) -> Float[Tensor, "*B N M"]:
    """Square pixels that every box of `a` shares with every box of `b`."""
    # By coordinates, without building [N, M, 2]: several times faster on a CPU.
    ax1, ay1, ax2, ay2 = (c.contiguous() for c in a[..., :, None, :].unbind(-1))  # [N, 1]
    bx1, by1, bx2, by2 = (c.contiguous() for c in b[..., None, :, :].unbind(-1))  # [1, M]
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    return (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0) * width


def pairwise_iou(
    a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B M 4"], eps: float = 1e-6
) -> Float[Tensor, "*B N M"]:
    """IoU of every box of `a` with every box of `b`.

    Unlike `torchvision.ops.box_iou` it takes batches and returns 0, not NaN, for two boxes without area:
    the union is clamped below at `eps` square pixels.
    """
    intersection = pairwise_intersection(a, b)  # [N, M]
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return intersection / union.clamp(min=eps)


def paired_iou(a: Float[Tensor, "*N 4"], b: Float[Tensor, "*N 4"], eps: float = 1e-6) -> Float[Tensor, "*N"]:
    """IoU of box i of `a` with box i of `b`; the union is clamped below at `eps` square pixels."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    sides = (high - low).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection / (area(a) + area(b) - intersection).clamp(min=eps)


def to_cxcywh(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """xyxy -> centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def boxes_from_distances(points: Float[Tensor, "*#P 2"], distances: Float[Tensor, "*#P 4"]) -> Float[Tensor, "... 4"]:
    """Boxes whose sides lie `distances` = (left, top, right, bottom) pixels from the point."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def distances_from_boxes(points: Float[Tensor, "*#P 2"], boxes: Float[Tensor, "*#P 4"]) -> Float[Tensor, "... 4"]:
    """(left, top, right, bottom) pixels from the point to the sides; negative where the point lies outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def points_inside(points: Float[Tensor, "P 2"], boxes: Float[Tensor, "*B G 4"]) -> Bool[Tensor, "*B P G"]:
    """Whether each point lies strictly inside each box."""
    # Axis by axis on [P, G], without ever building [P, G, 4]: several times faster.
    x, y = points[:, None].unbind(-1)  # [P, 1]
    x1, y1, x2, y2 = boxes[..., None, :, :].unbind(-1)  # [1, G]
    return (x > x1).logical_and_(x < x2).logical_and_(y > y1).logical_and_(y < y2)


def clip_boxes(boxes: Float[Tensor, "*N 4"], size_hw: tuple[int, int]) -> Float[Tensor, "*N 4"]:
    """Boxes cut to an image of `size_hw` pixels: x to [0, W], y to [0, H]."""
    height, width = size_hw
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)
