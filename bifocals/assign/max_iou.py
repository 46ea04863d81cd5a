"""Assignment by the IoU of anchors and objects (Faster R-CNN, arXiv:1506.01497; RetinaNet, arXiv:1708.02002).

Letters: P priors, G objects, R crowd regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import (
    Match,
    Prediction,
    Priors,
    Target,
    area,
    inside_canvas,
    pairwise_intersection,
    pairwise_iou,
)


@dataclass(frozen=True)
class MaxIoU:
    """An anchor takes the object it overlaps most, if by enough.

    IoU of `positive` and more is a pair, below `negative` background, between them ignored. Then, with `low_quality`,
    every object also gets all anchors that reach its own best IoU, if that is at least `min_positive`; where two
    objects want one anchor, the later one has it.

    padding: an image's anchors end where the image does, rounded up to a multiple of so many pixels: in a batch of
    several sizes the rest of the canvas is ignored; None takes all anchors.
    crowd_overlap: anchors with more than this share of their area in one crowd region are ignored; None looks at no
    region, as the papers do. An image without objects is all background, whatever its regions (mmdetection's rule).
    keep_best: an anchor that some object takes by `low_quality` answers for the object that it overlaps most itself,
    not for the one that takes it (torchvision's rule).
    """

    positive: float = 0.5
    negative: float = 0.4
    low_quality: bool = True
    min_positive: float = 0.0
    padding: int | None = 32
    crowd_overlap: float | None = None
    keep_best: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError(f"MaxIoU expected 0 <= negative <= positive <= 1, got {self.negative} and "
                             f"{self.positive}.")

    def overlaps(self, priors: Priors, target: Target) -> Float[Tensor, "P G"]:
        """IoU of anchors and objects; -1 for anchors that take no part."""
        return self._overlaps(priors, target, self._out(priors, target)).T

    def _overlaps(self, priors: Priors, target: Target, out: Tensor | None) -> Tensor:
        if priors.boxes is None:
            raise ValueError("MaxIoU expected priors with boxes, got points alone: it belongs to an anchor head.")
        iou = pairwise_iou(target.boxes, priors.boxes)  # [G, P]: the long side inside, for speed
        return iou if out is None else iou.masked_fill_(out, -1.0)

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        out = self._out(priors, target)
        iou = self._overlaps(priors, target, out)
        if len(iou) == 0:
            none = torch.zeros(0, dtype=torch.int64, device=iou.device)
            return Match(none, none, out)
        best, gt = iou.max(dim=0)  # [P]
        positive = best >= self.positive
        if self.low_quality:
            best_of_object = iou.amax(dim=1, keepdim=True)  # [G, 1]
            wanted = (iou == best_of_object) & (best_of_object >= self.min_positive)
            if self.keep_best:
                positive |= wanted.any(dim=0)
            else:
                last = (wanted * torch.arange(1, len(iou) + 1, device=iou.device)[:, None]).amax(dim=0)
                positive |= last > 0
                gt = torch.where(last > 0, last - 1, gt)
        ignore = ~positive & (best >= self.negative)
        if out is not None:
            ignore |= out & ~positive
        prior = torch.nonzero(positive)[:, 0]
        return Match(prior, gt[prior], ignore)

    def _out(self, priors: Priors, target: Target) -> Tensor | None:
        """[P] anchors that take no part: in the padding of the canvas, or in a crowd region."""
        out = None
        if self.padding is not None:
            height, width = (math.ceil(s / self.padding) * self.padding for s in target.size_hw)
            out = ~inside_canvas(priors, (height, width))
        if self.crowd_overlap is not None and len(target.regions) and len(target.boxes):
            assert priors.boxes is not None
            shared = pairwise_intersection(priors.boxes, target.regions) / area(priors.boxes)[:, None].clamp(min=1e-6)
            covered = (shared > self.crowd_overlap).any(dim=1)
            out = covered if out is None else out | covered
        return out
