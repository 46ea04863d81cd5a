"""3D max filtering: of neighboring points that see one object, the best keeps its score (DeFCN, arXiv:2012.03544).

Letters: B images, P priors, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import DenseOutput, Priors

from .predictor import PointPredictor, flatten_levels


class MaxFilter3D(nn.Module):
    """Maps x_l of all levels -> ReLU(GroupNorm(max of the neighbors of conv(x) + x_l)), of the same sizes.

    The neighbors of a point are the `kernel` x `kernel` points around it in its own level and in `tau` / 2 levels to
    each side, which are resized to its level (bilinear, corners not aligned). What is added is the map before the
    convolution. One convolution serves all levels; it starts N(0, .01).

    groups: of the norm; None leaves the norm out, which costs nothing according to DeFCN's release.
    """

    def __init__(self, channels: int, groups: int | None = 32, tau: int = 2, kernel: int = 3) -> None:
        super().__init__()
        if tau < 0 or tau % 2 or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"MaxFilter3D expected an even tau of 0 or more and an odd kernel, got {tau} and "
                             f"{kernel}.")
        self.reach = tau // 2
        self.kernel = kernel
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.Identity() if groups is None else nn.GroupNorm(groups, channels)
        self.relu = nn.ReLU()
        _start_small(self.conv)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        features = [self.conv(x) for x in levels]
        return [self.relu(self.norm(self._best_neighbor(features, i) + x)) for i, x in enumerate(levels)]

    def _best_neighbor(self, features: Sequence[Tensor], level: int) -> Tensor:
        best = features[level]
        for other in range(max(0, level - self.reach), min(len(features), level + self.reach + 1)):
            if other != level:
                size = features[level].shape[-2:]
                resized = F.interpolate(features[other], size=size, mode="bilinear", align_corners=False)
                best = torch.maximum(best, resized)
        # A maximum of maxima: over the levels first, one pooling serves them all.
        return F.max_pool2d(best, self.kernel, stride=1, padding=self.kernel // 2)


class FilteredPredictor(nn.Module):
    """A predictor whose class probabilities are multiplied with those of a filter over the maps of the box tower.

    The product is given as a logit, so that matching, loss and inference use it like that of any other head; the class
    logits before it are the output's `unfiltered`, which DeFCN's auxiliary loss reads. The filter's convolution starts
    N(0, .01) with bias 0, so at first it halves the probabilities.

    predictor: gives the class logits and boxes. channels: of the towers. groups: of the filter's norm, see MaxFilter3D.
    """

    def __init__(self, predictor: PointPredictor, channels: int, groups: int | None = 32) -> None:
        super().__init__()
        self.predictor = predictor
        self.max_filter = MaxFilter3D(channels, groups)
        self.filter = nn.Conv2d(channels, 1, 3, padding=1)
        _start_small(self.filter)

    def forward(
        self, cls_levels: Sequence[Tensor], box_levels: Sequence[Tensor], scales: Tensor, priors: Priors
    ) -> DenseOutput:
        output: DenseOutput = self.predictor(cls_levels, box_levels, scales, priors)
        filters = flatten_levels([self.filter(x) for x in self.max_filter(box_levels)])[..., 0]  # [B, P]
        return replace(output, logits=filtered_logits(output.logits, filters), unfiltered=output.logits)


def filtered_logits(
    logits: Float[Tensor, "B P C"], filters: Float[Tensor, "B P"], eps: float = 1e-5
) -> Float[Tensor, "B P C"]:
    """The logit of sigmoid(logits) * sigmoid(filters). The product is cut to [eps, 1 - eps], without gradient there."""
    return torch.logit(logits.sigmoid() * filters.sigmoid()[..., None], eps=eps)


def _start_small(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
