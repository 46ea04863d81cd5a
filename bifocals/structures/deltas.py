"""The way from anchors to boxes: centers move in anchor sizes, sides change by a factor (arXiv:1506.01497, Eq. 2).

Letters: N pairs of an anchor and a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class DeltaCoder:
    """Boxes as (dx, dy, dw, dh) = ((x - xa) / wa, (y - ya) / ha, ln(w / wa), ln(h / ha)), divided by `stds`.

    max_ratio: decoded sides are at most this many times, and at least this part of, the anchor's.
    center_limit: decoded centers move at most so many pixels along each axis; then small sides have no limit.
    """

    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000 / 16
    center_limit: float | None = None

    def encode(self, anchors: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
        """Deltas of boxes with positive sides against their anchors."""
        (center, sides), (anchor_center, anchor_sides) = _center_and_sides(boxes), _center_and_sides(anchors)
        deltas = torch.cat([(center - anchor_center) / anchor_sides, (sides / anchor_sides).log()], dim=-1)
        return deltas / deltas.new_tensor(self.stds)

    def decode(self, anchors: Float[Tensor, "*#N 4"], deltas: Float[Tensor, "*#N 4"]) -> Float[Tensor, "... 4"]:
        """Boxes, xyxy pixels, not clipped to an image."""
        deltas = deltas * deltas.new_tensor(self.stds)
        anchor_center, anchor_sides = _center_and_sides(anchors)
        shift, limit = deltas[..., :2] * anchor_sides, math.log(self.max_ratio)
        if self.center_limit is None:
            growth = deltas[..., 2:].clamp(-limit, limit)
        else:
            shift = shift.clamp(-self.center_limit, self.center_limit)
            growth = deltas[..., 2:].clamp(max=limit)
        center, half = anchor_center + shift, anchor_sides * growth.exp() / 2
        return torch.cat([center - half, center + half], dim=-1)


def _center_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low
