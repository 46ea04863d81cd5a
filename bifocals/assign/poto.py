"""POTO: prediction-aware one-to-one assignment (DeFCN, arXiv:2012.03544, Eq. 4; used by DATE, arXiv:2211.13859).

Letters: B images, P points, R points that matter, G objects of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bifocals.structures import (
    DenseOutput,
    Match,
    Matches,
    Prediction,
    Priors,
    Target,
    pad_targets,
    pairwise_iou,
    priors_inside,
)

from .hungarian import match_rows


@dataclass(frozen=True)
class POTO:
    """Matches each object with one point, maximizing the total quality p^(1 - alpha) * IoU^alpha.

    A point is a candidate for an object when it lies strictly inside the object's box and inside the square of half
    side `radius * stride` around its center (radius 0: anywhere inside the box). All other points are background.
    """

    alpha: float = 0.8
    """Weight of the IoU against the class probability, from 0 to 1."""
    radius: float = 1.5
    """Half side of the square around an object's center that holds its candidates, in strides; 0: the whole box."""
    outside: Literal["zero", "minus_one"] = "zero"
    """Quality of the points that are no candidates. zero, DATE's: an object without a good candidate is matched with
    an arbitrary point. minus_one, DeFCN's: any candidate, however bad, comes before the others."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"POTO expected alpha in [0, 1], got {self.alpha}.")
        if self.radius < 0:
            raise ValueError(f"POTO expected a radius of 0 (the whole box) or more strides, got {self.radius}.")
        if self.outside not in ("zero", "minus_one"):
            raise ValueError(f"POTO expected outside 'zero' or 'minus_one', got {self.outside!r}.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        """The match of one image."""
        return self._match(priors, [target], prediction.logits[None], prediction.boxes[None]).of_image(0)

    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput) -> Matches:
        """The matches of all images at once; the host waits for the device three times, whatever their number."""
        return self._match(priors, targets, output.logits, output.boxes)

    @torch.no_grad()
    def _match(self, priors: Priors, targets: Sequence[Target], logits: Tensor, boxes: Tensor) -> Matches:
        objects, labels, _ = pad_targets(targets)  # [B, G, 4], [B, G]
        device, counts = objects.device, [len(t.labels) for t in targets]
        if objects.shape[1] == 0:
            return Matches.stack([Match.empty(device) for _ in targets], len(priors))
        candidate = self._inside(priors, objects)  # [B, P, G]
        image, row = self._rows_that_matter(candidate, torch.tensor(counts, device=device))
        quality = self._quality(candidate[image, row], logits[image, row], boxes[image, row], objects[image],
                                labels[image])  # [R, G]
        on_host, starts = quality.cpu(), torch.searchsorted(image.cpu(), torch.arange(len(targets) + 1)).tolist()
        pairs = [
            match_rows(on_host[starts[i] : starts[i + 1], :count], maximize=True, who="POTO")
            for i, count in enumerate(counts)
        ]
        chosen = torch.cat([start + r for start, (r, _) in zip(starts[:-1], pairs, strict=True)]).to(device)
        return Matches(image[chosen], row[chosen], torch.cat([gt for _, gt in pairs]).to(device))

    def candidates(self, priors: Priors, target: Target) -> Bool[Tensor, "P G"]:
        """Which points may answer for which object."""
        return self._inside(priors, target.boxes)

    def quality(self, priors: Priors, target: Target, prediction: Prediction) -> Float[Tensor, "P G"]:
        """The whole quality matrix, with `outside` where a point is no candidate."""
        labels = target.labels.expand(len(priors), -1)
        return self._quality(self.candidates(priors, target), prediction.logits, prediction.boxes, target.boxes, labels)

    def _inside(self, priors: Priors, boxes: Tensor) -> Tensor:
        return priors_inside(priors, boxes, self.radius if self.radius > 0 else None)

    @staticmethod
    def _rows_that_matter(candidate: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        # A candidate-free row is only ever taken by an object without a candidate of positive quality. As many of
        # these rows as there are objects, the first ones, give each one, in the order of the full matrix.
        some = candidate.any(dim=2)  # [B, P]
        spare = (~some).cumsum(dim=1) <= counts[:, None]
        image, row = torch.nonzero(some | spare, as_tuple=True)
        return image, row

    def _quality(self, candidate: Tensor, logits: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor) -> Tensor:
        probability = logits.gather(1, labels).sigmoid()  # [R, G]
        iou = pairwise_iou(boxes[:, None], objects.expand(len(boxes), *objects.shape[-2:]))[:, 0]
        quality = probability ** (1 - self.alpha) * iou**self.alpha
        return torch.where(candidate, quality, 0.0 if self.outside == "zero" else -1.0)
