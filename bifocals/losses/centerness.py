"""Centerness: how central a point lies in its box (FCOS, arXiv:1904.01355, Eq. 3).

Letters: M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import Matched, Normalizer, distances_from_boxes


def centerness(sides: Float[Tensor, "M 4"]) -> Float[Tensor, "M"]:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points inside their boxes."""
    left_right, top_bottom = sides[:, 0::2], sides[:, 1::2]
    ratio = left_right.amin(1) / left_right.amax(1) * (top_bottom.amin(1) / top_bottom.amax(1))
    return ratio.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Centerness:
    """Binary cross-entropy of the quality logit against the centerness of the point, mean over the positives.

    Where priors are anchors, the point is the anchor's center (ATSS). normalizer: how positives are counted
    (`Matched.normalizer`).
    """

    normalizer: Normalizer = "reduced"

    def __call__(self, matched: Matched) -> Tensor:
        target = centerness(distances_from_boxes(matched.points, matched.target_boxes))
        total = F.binary_cross_entropy_with_logits(matched.quality, target, reduction="sum")
        return total / matched.normalizer(self.normalizer)
