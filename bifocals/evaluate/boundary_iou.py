"""Boundary IoU on class maps (Cheng et al., arXiv:2103.16562): the overlap of outlines in place of areas.

Letters: C classes, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from bifocals.structures import IGNORED

from .miou import confusion_matrix

RATIO = 0.02
"""Width of the outline as a share of the diagonal of the image, as the paper has it."""


def outline_width(size_hw: tuple[int, int], ratio: float = RATIO) -> int:
    """Pixels from the outline that still count: `ratio` of the diagonal, rounded, at least 1."""
    return max(1, round(ratio * math.hypot(*size_hw)))


def outline(labels: UInt8[Tensor, "H W"], width: int) -> Bool[Tensor, "H W"]:
    """Pixels that are no more than `width` from another label or from outside the map, both axes alone counting.

    For each class it is its mask without the mask after `width` erosions by 3x3. The frame of the image is an outline,
    as in the authors' code.
    """
    height, wide = labels.shape
    near = torch.ones_like(labels, dtype=torch.bool)
    if height > 2 * width and wide > 2 * width:
        side = 2 * width + 1
        low = _running(_running(labels, side, 0, torch.minimum), side, 1, torch.minimum)
        high = _running(_running(labels, side, 0, torch.maximum), side, 1, torch.maximum)
        near[width : height - width, width : wide - width] = low != high
    return near


def boundary_confusion(
    truth: UInt8[Tensor, "H W"], predicted: UInt8[Tensor, "H W"], num_classes: int, ratio: float = RATIO
) -> Int64[Tensor, "C+1 C+1"]:
    """The confusion matrix of outlines; the last row and column hold pixels away from the outlines of one map.

    Matrices of images add up. Pixels of truth 255 do not count, and end the masks of both maps alike.
    """
    predicted = torch.where(truth == IGNORED, truth, predicted)
    width = outline_width((truth.shape[0], truth.shape[1]), ratio)
    inside = truth.new_tensor(num_classes)
    true_lines = torch.where(outline(truth, width), truth, inside)
    lines = torch.where(outline(predicted, width), predicted, inside)
    return confusion_matrix(torch.where(truth == IGNORED, truth, true_lines), lines.clamp(max=num_classes),
                            num_classes + 1)


def boundary_iou(confusion: Int64[Tensor, "C+1 C+1"]) -> Float64[Tensor, "C"]:
    """The boundary IoU of each class, NaN for a class without outline."""
    counts = confusion.double()
    right, true, predicted = counts.diagonal()[:-1], counts.sum(dim=1)[:-1], counts.sum(dim=0)[:-1]
    return right / (true + predicted - right)


def _running(x: Tensor, window: int, axis: int, best: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The largest or smallest of each `window` neighbors along an axis, where the window fits: windows of 1, 2, 4, ...
    are joined, so the number of passes is the logarithm of the window."""
    reach, length = 1, x.shape[axis] - window + 1
    while 2 * reach <= window:
        rest = x.shape[axis] - reach
        x = best(x.narrow(axis, 0, rest), x.narrow(axis, reach, rest))
        reach *= 2
    return best(x.narrow(axis, 0, length), x.narrow(axis, window - reach, length))
