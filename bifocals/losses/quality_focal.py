"""Quality focal loss and varifocal loss: class logits that learn the IoU of their own box.

Letters: B images, P priors, C classes, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import Matched, Normalizer

from .entries import best_of_class, counted_pairs
from .factors import PairFactors


@dataclass(frozen=True)
class QualityFocal:
    """|y - p|^beta times the cross-entropy of p against y, over every prior and class, by the number of positives.

    arXiv:2006.04388, Eq. 8. y is the IoU of the predicted box with its object, without gradient, at the classes that a
    prior is matched with, 0 at the others; the highest of them where it answers for several objects of a class.
    Ignored priors do not count. normalizer: how positives are counted (`Matched.normalizer`).
    """

    beta: float = 2.0
    normalizer: Normalizer = "reduced"

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"QualityFocal expected beta of 0 or more, got {self.beta}.")

    def __call__(self, matched: Matched) -> Tensor:
        iou, logits = matched.iou.detach().clamp(0, 1), _own_logits(matched)
        entropy = F.binary_cross_entropy_with_logits(logits, iou, reduction="none")
        own = (iou - logits.sigmoid()).abs() ** self.beta * entropy
        return _total(matched, self.beta, 1.0, own) / matched.normalizer(self.normalizer)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """|y - p|^beta of each pair; in training the gradient also goes through this factor."""
        iou = matched.iou.detach().clamp(0, 1)
        mine = counted_pairs(matched, best_of_class(matched, matched.iou.detach()))
        return PairFactors({"|y - p|^beta": (iou - matched.probability.detach()).abs() ** self.beta * mine})


@dataclass(frozen=True)
class Varifocal:
    """y times the cross-entropy of p against y at objects, alpha p^gamma times that against 0 elsewhere.

    arXiv:2008.13367, Eq. 2; y as in `QualityFocal`, but at least 1e-6. weighted: False leaves out the factor y.
    Ignored priors do not count. Divided by the number of positives, counted as `normalizer` says.
    """

    alpha: float = 0.75
    gamma: float = 2.0
    weighted: bool = True
    normalizer: Normalizer = "reduced"

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.gamma < 0:
            raise ValueError(f"Varifocal expected alpha and gamma of 0 or more, got {self.alpha}, {self.gamma}.")

    def __call__(self, matched: Matched) -> Tensor:
        iou, logits = matched.iou.detach().clamp(1e-6, 1), _own_logits(matched)
        own = F.binary_cross_entropy_with_logits(logits, iou, iou if self.weighted else None, reduction="none")
        return _total(matched, self.gamma, self.alpha, own) / matched.normalizer(self.normalizer)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """y of each pair, 1 where `weighted` is off."""
        iou = matched.iou.detach()
        mine = counted_pairs(matched, best_of_class(matched, iou))
        return PairFactors({"y": (iou.clamp(1e-6, 1) if self.weighted else torch.ones_like(iou)) * mine})


def _own_logits(matched: Matched) -> Float[Tensor, "M"]:
    return matched.logits.gather(1, matched.target_labels[:, None])[:, 0]


def _total(matched: Matched, gamma: float, factor: float, own: Float[Tensor, "M"]) -> Float[Tensor, ""]:
    """Sum of factor * p^gamma * -ln(1 - p) over all logits, with `own` in its place at those of the pairs."""

    def background(logits: Tensor) -> Tensor:
        return logits.sigmoid() ** gamma * F.softplus(logits)

    # As in focal.py: all are background in few passes over [B, P, C], then the matched ones are corrected.
    everywhere = background(matched.output.logits)
    if matched.counted is not None:
        everywhere = everywhere * matched.counted[..., None]
    mine = counted_pairs(matched, best_of_class(matched, matched.iou.detach()))
    correction = (own - factor * background(_own_logits(matched))) * mine
    return factor * everywhere.sum() + correction.sum()
