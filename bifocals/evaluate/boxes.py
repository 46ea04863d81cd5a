"""Areas of boxes and of their overlaps in numpy: float64, as the benchmarks count.

Letters: A, B boxes, xyxy pixels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def area(boxes: Float[np.ndarray, "A 4"]) -> Float[np.ndarray, "A"]:
    """Square pixels; negative sides count as zero."""
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)


def intersection(a: Float[np.ndarray, "A 4"], b: Float[np.ndarray, "B 4"]) -> Float[np.ndarray, "A B"]:
    """Square pixels that every box of `a` shares with every box of `b`."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.maximum(sides, 0).prod(axis=2)


def xywh(boxes: Float[np.ndarray, "A 4"]) -> Float[np.ndarray, "A 4"]:
    """x, y, width, height, as COCO writes boxes."""
    boxes = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
