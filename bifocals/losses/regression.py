"""Coordinate losses on boxes.

Letters: M pairs, N coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import DeltaCoder, Matched, Normalizer, to_cxcywh


@dataclass(frozen=True)
class L1:
    """Sum of the four absolute differences of boxes divided by the image size, mean over the positives.

    format: "cxcywh" is the DATE port's, "xyxy" the original OneNet's. The image size is the un-padded one.
    """

    format: Literal["cxcywh", "xyxy"] = "cxcywh"

    def __post_init__(self) -> None:
        if self.format not in ("cxcywh", "xyxy"):
            raise ValueError(f"L1 expected format 'cxcywh' or 'xyxy', got {self.format!r}.")

    def __call__(self, matched: Matched) -> Tensor:
        boxes, targets = matched.boxes, matched.target_boxes
        if self.format == "cxcywh":
            boxes, targets = to_cxcywh(boxes), to_cxcywh(targets)
        # Each divided on its own, as the originals do it: the order of rounding is part of parity.
        size = matched.image_size_xyxy
        return (boxes / size - targets / size).abs().sum() / matched.num_positive


@dataclass(frozen=True)
class SmoothL1:
    """Smooth L1 between predicted and target deltas, four coordinates summed, mean over the positives.

    beta: below it the loss is quadratic (arXiv:1504.08083, Eq. 3 has 1); 0 is L1. coder: the one that the predictor
    decodes with. normalizer: how positives are counted (`Matched.normalizer`).
    """

    beta: float = 0.0
    coder: DeltaCoder = DeltaCoder()
    normalizer: Normalizer = "reduced"

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"SmoothL1 expected beta of 0 or more, got {self.beta}.")

    def __call__(self, matched: Matched) -> Tensor:
        targets = self.coder.encode(matched.anchors, matched.target_boxes)
        total = F.smooth_l1_loss(matched.deltas, targets, beta=self.beta, reduction="sum")
        return total / matched.normalizer(self.normalizer)


def balanced_l1(
    values: Float[Tensor, "*N"], targets: Float[Tensor, "*N"], alpha: float = 0.5, gamma: float = 1.5, beta: float = 1.0
) -> Float[Tensor, "*N"]:
    """Balanced L1 of each coordinate (Libra R-CNN, arXiv:1904.02701, Eqs. 9 to 11).

    Its slope is alpha * ln(b x / beta + 1) up to `beta` and `gamma` beyond, with b such that both are equal there: more
    gradient than smooth L1 from the coordinates that are nearly right.
    """
    distance = (values - targets).abs()
    b = math.exp(gamma / alpha) - 1
    near = alpha / b * (b * distance + 1) * torch.log1p(b * distance / beta) - alpha * distance
    return torch.where(distance < beta, near, gamma * distance + gamma / b - alpha * beta)


@dataclass(frozen=True)
class BalancedL1:
    """`balanced_l1` between predicted and target deltas, four coordinates summed, mean over the positives.

    coder: the one that the predictor decodes with. normalizer: how positives are counted (`Matched.normalizer`).
    """

    alpha: float = 0.5
    gamma: float = 1.5
    beta: float = 1.0
    coder: DeltaCoder = DeltaCoder()
    normalizer: Normalizer = "reduced"

    def __post_init__(self) -> None:
        if min(self.alpha, self.gamma, self.beta) <= 0:
            raise ValueError(f"BalancedL1 expected alpha, gamma and beta above 0, got {self.alpha}, {self.gamma}, "
                             f"{self.beta}.")

    def __call__(self, matched: Matched) -> Tensor:
        targets = self.coder.encode(matched.anchors, matched.target_boxes)
        rows = balanced_l1(matched.deltas, targets, self.alpha, self.gamma, self.beta)
        return rows.sum() / matched.normalizer(self.normalizer)
