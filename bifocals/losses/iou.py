"""IoU losses on decoded boxes.

Letters: M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from bifocals.structures import Matched, Normalizer, paired_iou

from .factors import PairFactors
from .iou_kinds import IoUKind, iou_loss
from .pair_weight import PairWeight, host_factor, require_pair_weight, weighted_mean


@dataclass(frozen=True)
class IoULoss:
    """An IoU loss over the pairs, their mean or their weighted mean.

    kind, eps, alpha (alpha_*), gamma (focal_eiou): see `iou_loss`. weight, normalizer, least: see `weighted_mean`.
    """

    kind: IoUKind = "giou"
    weight: PairWeight = "none"
    eps: float = 1e-7
    normalizer: Normalizer = "reduced"
    alpha: float = 3.0
    gamma: float = 0.5
    least: float = 1e-6

    def __post_init__(self) -> None:
        if self.kind not in get_args(IoUKind):
            raise ValueError(f"IoULoss knows the kinds {get_args(IoUKind)}, got {self.kind!r}.")
        require_pair_weight("IoULoss", self.weight)
        if self.alpha <= 0 or self.gamma < 0:
            raise ValueError(f"IoULoss expected alpha above 0 and gamma of 0 or more, got {self.alpha}, {self.gamma}.")

    def __call__(self, matched: Matched) -> Tensor:
        rows = iou_loss(matched.boxes, matched.target_boxes, self.kind, self.eps, alpha=self.alpha, gamma=self.gamma)
        return weighted_mean(rows, matched, self.weight, self.normalizer, self.least)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """u, the weight of the pair, where there is one; of focal_eiou also IoU^gamma."""
        factors = host_factor(matched, self.weight)
        if self.kind == "focal_eiou":
            factors["IoU^gamma"] = paired_iou(matched.boxes, matched.target_boxes, self.eps).detach() ** self.gamma
        return PairFactors(factors)
