"""POTO: prediction-aware one-to-one assignment (DeFCN, arXiv:2012.03544, Eq. 4; used by DATE, arXiv:2211.13859).

Letters: P points, G objects of an image, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bifocals.structures import Match, Prediction, Priors, Target, pairwise_iou

from .hungarian import match_rows


@dataclass(frozen=True)
class POTO:
    """Matches each object with one point, maximizing the total quality p^(1 - alpha) * IoU^alpha.

    A point is a candidate for an object when it lies strictly inside the object's box and inside the square of half
    side `radius * stride` around its center (radius 0: anywhere inside the box). All other points are background.

    alpha: weight of the IoU against the class probability.
    outside: quality of the points that are no candidates. "zero" is DATE's: an object without a good candidate is
    matched with an arbitrary point. "minus_one" is DeFCN's: any candidate, however bad, comes before the others.
    """

    alpha: float = 0.8
    radius: float = 1.5
    outside: Literal["zero", "minus_one"] = "zero"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"POTO expected alpha in [0, 1], got {self.alpha}.")
        if self.radius < 0:
            raise ValueError(f"POTO expected a radius of 0 (the whole box) or more strides, got {self.radius}.")
        if self.outside not in ("zero", "minus_one"):
            raise ValueError(f"POTO expected outside 'zero' or 'minus_one', got {self.outside!r}.")

    @torch.no_grad()
    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        num_objects = len(target.labels)
        if num_objects == 0:
            return Match.empty(target.boxes.device)
        candidate = self.candidates(priors, target)
        rows = self._rows_that_matter(candidate)
        candidate = candidate[rows]
        quality = self._quality(candidate, prediction.logits[rows], prediction.boxes[rows], target)
        row, gt = match_rows(quality, maximize=True, who="POTO")
        return Match(rows[row], gt)

    def candidates(self, priors: Priors, target: Target) -> Bool[Tensor, "P G"]:
        """Which points may answer for which object."""
        low, high = target.boxes[:, :2], target.boxes[:, 2:]  # [G, 2]
        if self.radius > 0:
            center = (low + high) / 2
            reach = (self.radius * priors.strides)[:, None, None]  # [P, 1, 1]
            low, high = torch.maximum(center - reach, low), torch.minimum(center + reach, high)
        points = priors.points[:, None]
        return torch.cat([points - low, high - points], dim=-1).amin(dim=-1) > 0

    def quality(self, priors: Priors, target: Target, prediction: Prediction) -> Float[Tensor, "P G"]:
        """The whole quality matrix, with `outside` where a point is no candidate."""
        candidate = self.candidates(priors, target)
        return self._quality(candidate, prediction.logits, prediction.boxes, target)

    def _rows_that_matter(self, candidate: Tensor) -> Tensor:
        # A candidate-free row is only ever taken by an object without a candidate of positive quality. The first G of
        # these rows give every object one, in the order in which the full matrix would hand them out.
        some = candidate.any(dim=1)
        spare = (~some).cumsum(0) <= candidate.shape[1]
        return torch.nonzero(some | spare)[:, 0]

    def _quality(self, candidate: Tensor, logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        probability = logits.sigmoid()[:, target.labels]  # [P, G]
        iou = pairwise_iou(boxes, target.boxes)
        quality = probability ** (1 - self.alpha) * iou**self.alpha
        return torch.where(candidate, quality, 0.0 if self.outside == "zero" else -1.0)


