"""Bags of anchors: every object is offered the anchors that overlap it most (FreeAnchor, arXiv:1909.02466).

Letters: P priors, G objects, K anchors of a bag.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bifocals.structures import Match, Prediction, Priors, Target, inside_canvas, pairwise_iou


@dataclass(frozen=True)
class Bags:
    """The `k` anchors of all levels with the best IoU with an object are its bag; a loss chooses among them.

    There is no least IoU: an object smaller than any anchor has a bag too, of the anchors nearest to fitting it. A
    threshold of .5, which MAL's section 4.1 has for its RetinaNet, would leave small objects without any anchor. An
    anchor may lie in several bags. IoU is that of the anchors as they stand, whatever boxes they predict.

    The pairs come object by object, K = min(k, P) of each, the best first, so that a loss can view them as [G, K].

    padding: an image's anchors end where the image does, rounded up to a multiple of so many pixels; those in the rest
    of the canvas are in no bag and are ignored. None takes all anchors, as the releases of FreeAnchor and MAL do.
    """

    k: int = 50
    padding: int | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"Bags expected k of 1 or more, got {self.k}.")
        if self.padding is not None and self.padding < 1:
            raise ValueError(f"Bags expected padding None or 1 and more, got {self.padding}.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        if priors.boxes is None:
            raise ValueError("Bags expected priors with boxes, got points alone: it belongs to an anchor head.")
        iou = pairwise_iou(target.boxes, priors.boxes)  # [G, P]
        out, size = None, min(self.k, len(priors))
        if self.padding is not None:
            height, width = (math.ceil(s / self.padding) * self.padding for s in target.size_hw)
            out = ~inside_canvas(priors, (height, width))
            iou = iou.masked_fill(out, -1.0)
            size = min(self.k, int((~out).sum()))
        prior = best(iou, size)
        gt = torch.arange(len(iou), device=iou.device)[:, None].expand_as(prior)
        return Match(prior.flatten(), gt.flatten(), out)


def best(iou: Float[Tensor, "G P"], k: int) -> Int64[Tensor, "G K"]:
    """The k largest of each row, the largest first."""
    return iou.topk(k, dim=1).indices
