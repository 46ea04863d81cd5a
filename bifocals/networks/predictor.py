"""Predictors: the last convolutions of a dense head and the decoding of their maps.

Letters: B images, P priors of all levels, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bifocals.structures import DenseOutput, Priors, boxes_from_distances


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, C, h, w] of all levels -> [B, P, C] float32, contiguous, row-major inside a level."""
    # Channels last, as convolutions leave them: the losses run over this memory several times faster in order.
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1).float()


def start_convolutions(predictor: nn.Module, cls: nn.Conv2d, prior_probability: float) -> None:
    """Convolutions start N(0, .01) with bias 0; the class bias starts at the logit of `prior_probability`."""
    for conv in predictor.children():
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
    assert cls.bias is not None
    nn.init.constant_(cls.bias, math.log(prior_probability / (1 - prior_probability)))


class PointPredictor(nn.Module):
    """Class logits and distances to the four sides at each point, with an optional quality logit.

    distances: how the map s_l * x becomes pixels, s_l the level's learned scale. "relu": relu(s_l x) * stride
    (OneNet and DATE's one-to-one branch); "exp": exp(s_l x) (the first FCOS and DATE's one-to-many branch);
    "exp_stride": exp(s_l x) * stride.
    quality: None, or the tower that the quality map reads ("cls": the first FCOS, "box": later ones).
    Convolutions start N(0, .01); the class bias starts at the logit of `prior_probability`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        distances: Literal["relu", "exp", "exp_stride"],
        quality: Literal["cls", "box"] | None = None,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"PointPredictor expected at least one class, got {num_classes}.")
        self.distances = distances
        self.quality_source = quality
        self.cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1) if quality else None
        start_convolutions(self, self.cls, prior_probability)

    def forward(
        self, cls_levels: Sequence[Tensor], box_levels: Sequence[Tensor], scales: Tensor, priors: Priors
    ) -> DenseOutput:
        raw = flatten_levels([self.box(x).float() * s for x, s in zip(box_levels, scales, strict=True)])  # [B, P, 4]
        if self.distances == "relu":
            sides = raw.relu() * priors.strides[:, None]
        elif self.distances == "exp":
            sides = raw.exp()
        else:
            sides = raw.exp() * priors.strides[:, None]
        quality = None
        if self.quality is not None:
            source = cls_levels if self.quality_source == "cls" else box_levels
            quality = flatten_levels([self.quality(x) for x in source])[..., 0]
        logits = flatten_levels([self.cls(x) for x in cls_levels])
        return DenseOutput(logits, sides, boxes_from_distances(priors.points, sides), priors, quality)
