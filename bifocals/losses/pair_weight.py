"""How much each pair counts in a box loss, and what the sum is divided by.

Letters: M pairs.
"""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from bifocals.structures import Matched, Normalizer, distances_from_boxes, sum_over_ranks, world_size

from .centerness import centerness

PairWeight = Literal["none", "centerness", "iou"]
"""What a pair counts by, see `weighted_mean`."""


def weighted_mean(
    rows: Float[Tensor, "M"],
    matched: Matched,
    weight: PairWeight = "none",
    normalizer: Normalizer = "reduced",
    least: float = 1e-6,
) -> Float[Tensor, ""]:
    """Mean of `rows` over the pairs of all ranks.

    none: the sum is divided by the number of positives, counted as `normalizer` says. centerness: each pair counts by
    the centerness of its point in the target box (FCOS, ATSS). iou: by the IoU of its own box, without gradient
    (VarifocalNet). With weights the divisor is their sum over ranks, but at least `least` (FCOS: 1e-6; ATSS and
    VarifocalNet: 1).
    """
    if weight == "none":
        return rows.sum() / matched.normalizer(normalizer)
    weights = _weights(matched, weight)
    divisor = sum_over_ranks(weights.sum()).clamp(min=least) / world_size()
    return (rows * weights).sum() / divisor


def host_factor(matched: Matched, weight: PairWeight) -> dict[str, Float[Tensor, "M"]]:
    """What `weighted_mean` multiplies each row with, as the factor u of `PairFactors`; empty for "none"."""
    return {} if weight == "none" else {"u": _weights(matched, weight)}


def _weights(matched: Matched, weight: PairWeight) -> Float[Tensor, "M"]:
    if weight == "centerness":
        return centerness(distances_from_boxes(matched.points, matched.target_boxes)).detach()
    return matched.iou.detach().clamp(min=1e-6)


def require_pair_weight(who: str, weight: str) -> None:
    """ValueError if `weight` is none of them."""
    if weight not in get_args(PairWeight):
        raise ValueError(f"{who} expected a weight of {get_args(PairWeight)}, got {weight!r}.")
