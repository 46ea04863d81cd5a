"""Distribution focal loss: distances as distributions over whole numbers (arXiv:2006.04388, Eq. 6).

Letters: N distances, K bins.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import distances_from_boxes


def distribution_focal_loss(logits: Float[Tensor, "N K"], distances: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Cross-entropy against the two whole numbers around each distance, weighed by how near they are.

    distances: in [0, K - 1), see `distance_targets`.
    """
    low = distances.long().clamp(0, logits.shape[1] - 2)
    above = distances - low
    return (F.cross_entropy(logits, low, reduction="none") * (1 - above)
            + F.cross_entropy(logits, low + 1, reduction="none") * above)


def distance_targets(
    points: Float[Tensor, "M 2"], boxes: Float[Tensor, "M 4"], limit: float, margin: float = 0.1
) -> Float[Tensor, "M 4"]:
    """(left, top, right, bottom) from the point to the sides, cut to [0, limit - margin].

    Give points and boxes in units of the stride and K - 1 as limit to get targets of `distribution_focal_loss`, which
    need a whole number above them.
    """
    return distances_from_boxes(points, boxes).clamp(0, limit - margin)
