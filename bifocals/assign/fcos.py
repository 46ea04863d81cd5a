"""FCOS: every point inside an object, at the pyramid level of the object's size (arXiv:1904.01355).

Letters: B images, P points, G objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bifocals.structures import (
    DenseOutput,
    Match,
    Matches,
    Prediction,
    Priors,
    Target,
    area,
    pad_targets,
    priors_inside,
)

RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))


@dataclass(frozen=True)
class FCOS:
    """Matches each point with the smallest object that holds it and whose size fits the point's level.

    A point is positive when it lies strictly inside a box and max(l, t, r, b) lies in its level's range, both ends
    inclusive, in pixels. Several boxes: the smallest area, the first on a tie. Nothing is ignored.

    center_radius: None takes the whole box (the first FCOS, DATE's branch); a number keeps only the points strictly
    inside the square of half side `center_radius * stride` around the box center, cut to the box ("center sampling").
    ranges: (low, high) pixels of each level, fine to coarse.
    """

    center_radius: float | None = None
    ranges: tuple[tuple[float, float], ...] = RANGES

    def __post_init__(self) -> None:
        if self.center_radius is not None and not self.center_radius > 0:
            raise ValueError(f"FCOS expected center_radius None or above 0, got {self.center_radius}.")
        if any(not low < high for low, high in self.ranges):
            raise ValueError(f"FCOS expected ranges of (low, high) with low < high, got {self.ranges}.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        """The match of one image; the prediction is not looked at."""
        return self._match(priors, [target]).of_image(0)

    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput | None = None) -> Matches:
        """The matches of all images at once, with one device sync."""
        return self._match(priors, targets)

    @torch.no_grad()
    def _match(self, priors: Priors, targets: Sequence[Target]) -> Matches:
        if len(self.ranges) != len(priors.level_sizes):
            raise ValueError(f"FCOS has ranges for {len(self.ranges)} levels, but the priors have "
                             f"{len(priors.level_sizes)} levels of {priors.level_sizes} points.")
        boxes, _, _ = pad_targets(targets)  # [B, G, 4]
        if boxes.shape[1] == 0:
            return Matches.stack([Match.empty(boxes.device) for _ in targets], len(priors))
        inside = priors_inside(priors, boxes, self.center_radius)  # [B, P, G]
        farthest = self._farthest_side(priors.points, boxes)
        low, high = self._range_of_points(priors)
        fits = inside & (farthest >= low[:, None]) & (farthest <= high[:, None])
        # Padded boxes have area 0 but hold no point, so they never fit.
        areas = torch.where(fits, area(boxes)[:, None], math.inf)
        smallest, gt = areas.min(dim=2)  # [B, P]
        image, prior = torch.nonzero(smallest < math.inf, as_tuple=True)
        return Matches(image, prior, gt[image, prior])

    @staticmethod
    def _farthest_side(points: Tensor, boxes: Tensor) -> Tensor:
        """[B, P, G] max(l, t, r, b) in pixels; for points inside the box."""
        x, y = points[:, None].unbind(-1)  # [P, 1]
        x1, y1, x2, y2 = boxes[:, None].unbind(-1)  # [B, 1, G]
        return torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))

    def _range_of_points(self, priors: Priors) -> tuple[Tensor, Tensor]:
        def fill(values: Sequence[float]) -> Tensor:
            return torch.cat([priors.points.new_full((n,), v)
                              for n, v in zip(priors.level_sizes, values, strict=True)])

        return fill([low for low, _ in self.ranges]), fill([high for _, high in self.ranges])
