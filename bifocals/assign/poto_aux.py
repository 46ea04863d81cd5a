"""The one-to-many assignment of DeFCN's auxiliary loss (arXiv:2012.03544): POTO's quality, an adaptive threshold.

Letters: P points, G objects of an image, N candidates of an object, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bifocals.structures import DenseOutput, Match, Matches, Prediction, Priors, Target, pairwise_iou, points_inside


@dataclass(frozen=True)
class POTOAux:
    """Matches each object with those of its best points that stand out, some ten of them.

    1. The candidates of an object are the `top` points of each level with the best quality p^(1 - alpha) * IoU^alpha,
       wherever they lie.
    2. Those stay whose quality reaches mean plus standard deviation (unbiased) of the quality of all its candidates,
       and that lie strictly inside its box.
    3. A point that several objects claim goes to the one of the best quality, the first one on a tie.

    A level with fewer than `top` points gives all it has. There is no center square, and nothing is ignored.
    """

    alpha: float = 0.8
    top: int = 9

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"POTOAux expected alpha in [0, 1], got {self.alpha}.")
        if self.top < 1:
            raise ValueError(f"POTOAux expected top of at least 1 point a level, got {self.top}.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        """The match of one image."""
        return self._match(priors, [target], prediction.logits[None], prediction.boxes[None]).of_image(0)

    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput) -> Matches:
        """The matches of all images, with one device sync."""
        return self._match(priors, targets, output.logits, output.boxes)

    @torch.no_grad()
    def _match(self, priors: Priors, targets: Sequence[Target], logits: Tensor, boxes: Tensor) -> Matches:
        # Image by image, so that no [B, P, G] is built; the host waits once, for all of them.
        claims = [self._claims(priors, *parts) for parts in zip(targets, logits, boxes, strict=True)]
        gt = torch.stack(claims)  # [B, P]
        image, prior = torch.nonzero(gt >= 0, as_tuple=True)
        return Matches(image, prior, gt[image, prior])

    def _claims(self, priors: Priors, target: Target, logits: Tensor, boxes: Tensor) -> Tensor:
        """[P] the object that each point answers for, -1 for none."""
        if len(target.labels) == 0:
            return torch.full((len(priors),), -1, device=logits.device)
        probability = logits[:, target.labels].T.sigmoid()  # [G, P]
        quality = probability ** (1 - self.alpha) * pairwise_iou(target.boxes, boxes) ** self.alpha
        levels = quality.split(list(priors.level_sizes), dim=1)
        best = [level.topk(min(self.top, level.shape[1]), dim=1) for level in levels]
        numbered = zip(best, priors.level_starts, strict=True)
        candidates = torch.cat([b.indices + start for b, start in numbered], dim=1)  # [G, N]
        values = torch.cat([b.values for b in best], dim=1)
        threshold = values.mean(dim=1, keepdim=True)
        if values.shape[1] > 1:
            threshold = threshold + values.std(dim=1, keepdim=True)
        kept = torch.full_like(quality, -1).scatter(1, candidates, torch.where(values >= threshold, values, -1.0))
        kept = torch.where(points_inside(priors.points, target.boxes).T, kept, -1.0)
        strongest, gt = kept.max(dim=0)  # [P]
        return torch.where(strongest >= 0, gt, -1)
