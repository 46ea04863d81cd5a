"""Wise-IoU v3: box loss that turns from the worst and the best boxes to those between (arXiv:2301.10051).

Letters: M pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import Matched, Normalizer, paired_iou

from .factors import PairFactors
from .pair_weight import PairWeight, host_factor, require_pair_weight, weighted_mean
from .running import RunningMean


class WiseIoU(nn.Module):
    """exp(R) * (1 - IoU) * beta / (delta * alpha^(beta - delta)), with beta = (1 - IoU) by its running mean.

    R is the squared distance of the centers by the hull's squared diagonal, the latter without gradient. alpha, delta:
    which beta gains most (the release's values). The mean is the state: it changes at each forward in training mode
    that saw a pair, before it is used; in eval mode never. momentum, initial: of that mean, see `RunningMean`.
    weight, normalizer, least: see `weighted_mean`.
    """

    def __init__(
        self,
        alpha: float = 1.7,
        delta: float = 2.7,
        momentum: float = 0.01,
        weight: PairWeight = "none",
        *,
        initial: float = 1.0,
        normalizer: Normalizer = "reduced",
        least: float = 1.0,
        eps: float = 1e-7,
    ) -> None:
        super().__init__()
        require_pair_weight("WiseIoU", weight)
        if alpha <= 0 or delta <= 0:
            raise ValueError(f"WiseIoU expected alpha and delta above 0, got {alpha}, {delta}.")
        self.alpha, self.delta, self.weight = alpha, delta, weight
        self.normalizer, self.least, self.eps = normalizer, least, eps
        self.mean = RunningMean(momentum, initial)

    def forward(self, matched: Matched) -> Float[Tensor, ""]:
        rows = self.rows(matched.boxes, matched.target_boxes)
        return weighted_mean(rows, matched, self.weight, self.normalizer, self.least)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """r, which is made of beta (a detail), and u, the host's weight of the pair."""
        distance = 1 - paired_iou(matched.boxes, matched.target_boxes, self.eps).detach()
        mean = self.mean.after(distance)
        factors = {"r": self._gain(distance, mean)} | host_factor(matched, self.weight)
        return PairFactors(factors, {"beta": distance / mean})

    def _gain(self, distance: Float[Tensor, "M"], mean: Tensor) -> Float[Tensor, "M"]:
        beta = distance / mean
        return beta / (self.delta * self.alpha ** (beta - self.delta))

    def rows(self, boxes: Float[Tensor, "M 4"], targets: Float[Tensor, "M 4"]) -> Float[Tensor, "M"]:
        """Loss of each pair of xyxy boxes; one step of the running mean in training mode."""
        distance = 1 - paired_iou(boxes, targets, self.eps)
        self.mean.update(distance.detach())
        gain = self._gain(distance.detach(), self.mean.value)
        low, high = torch.minimum(boxes[:, :2], targets[:, :2]), torch.maximum(boxes[:, 2:], targets[:, 2:])
        offset = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
        diagonal = ((high - low) ** 2).sum(-1).detach()
        return torch.exp((offset**2).sum(-1) / (diagonal + self.eps)) * distance * gain
