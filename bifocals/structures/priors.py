"""Priors: the places where a dense head predicts, points or anchors.

Letters: G boxes; P priors of all levels, level-major, row-major inside a level, anchors of a location last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .boxes import points_inside


@dataclass(frozen=True)
class Priors:
    """Points of a pyramid, fine level first.

    points: (x, y) pixels. strides: pixels between neighbours of the prior's level. level_sizes: priors of each level.
    boxes: the anchor of each prior, where the head has anchors. level_hw: rows and columns of the points of each level;
    None where they form no grid.
    """

    points: Float[Tensor, "P 2"]
    strides: Float[Tensor, "P"]
    level_sizes: tuple[int, ...]
    boxes: Float[Tensor, "P 4"] | None = None
    level_hw: tuple[tuple[int, int], ...] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def level_starts(self) -> tuple[int, ...]:
        """Number of the first prior of each level."""
        return (0, *accumulate(self.level_sizes[:-1]))

    def level_index(self) -> Tensor:
        """[P] number of the level of each prior, on the device of the points."""
        return _per_level(range(len(self.level_sizes)), self.level_sizes, self.points.device, torch.int64)

    @staticmethod
    def of_boxes(boxes: Float[Tensor, "P 4"]) -> Priors:
        """Boxes as the anchors of one level, their centers the points: regions of interest to an assigner."""
        return Priors((boxes[:, :2] + boxes[:, 2:]) / 2, boxes.new_ones(len(boxes)), (len(boxes),), boxes)


def make_points(
    feature_hw: Sequence[tuple[int, int]],
    strides: Sequence[int],
    offset: float = 0.5,
    device: torch.device | str = "cpu",
) -> Priors:
    """One point a pixel of each feature map: ((column + offset) * stride, (row + offset) * stride)."""
    levels = []
    for (height, width), stride in zip(feature_hw, strides, strict=True):
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        levels.append(torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=-1))
    sizes = tuple(h * w for h, w in feature_hw)
    every_stride = _per_level(strides, sizes, device, torch.float32)
    return Priors(torch.cat(levels), every_stride, sizes, level_hw=tuple((int(h), int(w)) for h, w in feature_hw))


def priors_inside(
    priors: Priors, boxes: Float[Tensor, "*B G 4"], radius: float | None = None
) -> Bool[Tensor, "*B P G"]:
    """Whether the point of each prior lies strictly inside each box.

    radius: where given, the point must also lie strictly inside the square around the center of the box whose half
    side is so many strides of the point's level.
    """
    if radius is None:
        return points_inside(priors.points, boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    center = (low + high) / 2
    levels = []
    # Box and square meet in one box of each level: a handful of numbers, where the points are thousands.
    for start, size in zip(priors.level_starts, priors.level_sizes, strict=True):
        reach = radius * priors.strides[start]
        square = torch.cat([torch.maximum(low, center - reach), torch.minimum(high, center + reach)], dim=-1)
        levels.append(points_inside(priors.points[start : start + size], square))
    return torch.cat(levels, dim=-2)


def _per_level(
    values: Sequence[int] | range, sizes: Sequence[int], device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    # Filled level by level: repeat_interleave would need the sizes on the device and a sync to read them back.
    parts = [torch.full((n,), v, device=device, dtype=dtype) for v, n in zip(values, sizes, strict=True)]
    return torch.cat(parts)
