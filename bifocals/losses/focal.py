"""Focal loss on class logits (arXiv:1708.02002, Eq. 5).

Letters: B images, P priors, C classes, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from bifocals.structures import Matched


@dataclass(frozen=True)
class Focal:
    """-alpha_t (1 - p_t)^gamma log(p_t) over every prior and class, divided by the number of positives.

    A prior is positive for the classes of the objects it is matched with, negative for the others; ignored priors do
    not count. The divisor is at least one (see `Matched.num_positive`).
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.gamma < 0:
            raise ValueError(f"Focal expected alpha in [0, 1] and gamma of 0 or more, got {self.alpha}, {self.gamma}.")

    def __call__(self, matched: Matched) -> Tensor:
        logits = matched.output.logits
        rows = sigmoid_focal_loss(logits, matched.class_targets, self.alpha, self.gamma)  # [B, P, C]
        if matched.counted is not None:
            rows = rows * matched.counted[..., None]
        return rows.sum() / matched.num_positive
