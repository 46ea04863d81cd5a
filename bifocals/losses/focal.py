"""Focal loss on class logits (arXiv:1708.02002, Eq. 5).

Letters: B images, P priors, C classes, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from bifocals.structures import Matched, Normalizer

from .entries import counted_pairs
from .factors import PairFactors


@dataclass(frozen=True)
class Focal:
    """-alpha_t (1 - p_t)^gamma log(p_t) over every prior and class, divided by the number of positives.

    A prior is positive for the classes of the objects it is matched with, negative for the others; ignored priors do
    not count. normalizer: how positives are counted (`Matched.normalizer`).
    """

    alpha: float = 0.25
    gamma: float = 2.0
    normalizer: Normalizer = "reduced"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.gamma < 0:
            raise ValueError(f"Focal expected alpha in [0, 1] and gamma of 0 or more, got {self.alpha}, {self.gamma}.")

    def __call__(self, matched: Matched) -> Tensor:
        # Nearly all entries are background, so all are treated as background in few passes over [B, P, C] and the
        # matched ones are corrected: several times faster than building one-hot targets (benchmarks/step.py).
        background = self._surprise(matched.output.logits)  # [B, P, C]
        entries = matched.logits.gather(1, matched.target_labels[:, None])[:, 0]  # [M]
        correction = self.alpha * self._surprise(-entries) - (1 - self.alpha) * self._surprise(entries)
        correction = correction * matched.first_of_class
        if matched.counted is not None:
            background = background * matched.counted[..., None]
            correction = correction * matched.counted[matched.matches.image, matched.matches.prior]
        return ((1 - self.alpha) * background.sum() + correction.sum()) / matched.normalizer(self.normalizer)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """alpha * (1 - p)^gamma of each pair; in training the gradient also goes through this factor."""
        mine = counted_pairs(matched, matched.first_of_class)
        return PairFactors({"focal": self.alpha * (1 - matched.probability.detach()) ** self.gamma * mine})

    def _surprise(self, logits: Tensor) -> Tensor:
        """p^gamma * -log(1 - p): what a logit costs where there is no object; the negated one, where there is."""
        return logits.sigmoid() ** self.gamma * F.softplus(logits)
