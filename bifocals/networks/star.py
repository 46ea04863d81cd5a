"""Heads of one square anchor a point that predict the distances to the sides of the box, plain and refined.

The plain one is FCOS with ATSS's anchors. The refined one looks at nine points of the box that it predicted first, a
star-shaped deformable convolution, and corrects the box (VarifocalNet, arXiv:2008.13367; the auxiliary modules of
HCRAL, arXiv:2408.17182).

Letters: B images, P priors, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import Anchors, DenseOutput, Priors, boxes_from_distances

from .deformable import DeformConv2d
from .predictor import flatten_levels
from .tower import Tower

SQUARE = Anchors(8.0, 1, (1.0,))


def star_offsets(distances: Float[Tensor, "B 4 H W"], gradient: float = 0.1) -> Float[Tensor, "B 18 H W"]:
    """Offsets (dy, dx) of the taps of a 3x3 kernel, row by row, that put them on center, corners and sides of a box.

    distances: from the center to the left, upper, right and lower side, in pixels of the map; where all are 1 the
    offsets are 0. gradient: what part of the gradient goes back to the distances.
    """
    still = distances.detach()
    left, top, right, bottom = (still + gradient * (distances - still)).unbind(dim=1)
    middle = torch.zeros_like(left)
    taps = []
    for row, y in enumerate((-top, middle, bottom)):
        for column, x in enumerate((-left, middle, right)):
            taps += [y - (row - 1), x - (column - 1)]
    return torch.stack(taps, dim=1)


class SidesPredictor(nn.Module):
    """Class logits, distances exp(s_l x) * (side of the anchor) to the four sides, and a quality logit.

    s_l: the level's learned scale. Points are the centers of `anchors`, one a point, which matching by ATSS needs and
    whose side is the unit of the distances (8 strides: 64, 128 ... 1024 pixels).
    Convolutions start N(0, .01); the class bias starts at the logit of `prior_probability`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: Anchors = SQUARE,
        quality: bool = True,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        _require(type(self).__name__, num_classes, anchors)
        self.anchors = anchors
        self.cls = _last(channels, num_classes, math.log(prior_probability / (1 - prior_probability)))
        self.box = _last(channels, 4)
        self.quality = _last(channels, 1) if quality else None

    def forward(
        self, cls_levels: Sequence[Tensor], box_levels: Sequence[Tensor], scales: Tensor, priors: Priors
    ) -> DenseOutput:
        anchored = self.anchors.at(priors)
        raw = flatten_levels([self.box(x).float() * s for x, s in zip(box_levels, scales, strict=True)])
        sides = raw.exp() * (self.anchors.base_scale * anchored.strides[:, None])
        quality = None if self.quality is None else flatten_levels([self.quality(x) for x in box_levels])[..., 0]
        logits = flatten_levels([self.cls(x) for x in cls_levels])
        return DenseOutput(logits, sides, boxes_from_distances(anchored.points, sides), anchored, quality)


class StarPredictor(nn.Module):
    """A `SidesPredictor` whose boxes are refined, and whose classes are read where the box is.

    From the towers: one more convolution with group norm, from which the initial distances are read; their star
    offsets, through which a tenth of the gradient goes; two deformable convolutions with those offsets, ReLU, and from
    the one the refinement exp(s'_l x), which the initial distances are multiplied with (without gradient to them),
    from the other the class logits. All is shared over levels but the scales s_l and s'_l.

    quality: the map that the quality logit reads: "initial", where it stands without refinement, that of the initial
    distances, as no source says otherwise; "refined", that of the refinement; or None. num_levels: of the pyramid.
    Convolutions start N(0, .01), the deformable ones too.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: Anchors = SQUARE,
        quality: Literal["initial", "refined"] | None = "initial",
        prior_probability: float = 0.01,
        gradient: float = 0.1,
        num_levels: int = 5,
        groups: int | None = 32,
    ) -> None:
        super().__init__()
        _require(type(self).__name__, num_classes, anchors)
        if not 0 <= gradient <= 1:
            raise ValueError(f"StarPredictor expected gradient in [0, 1], got {gradient}; it is a part of a gradient.")
        self.anchors = anchors
        self.gradient = gradient
        self.quality_source = quality
        self.initial_tower = Tower(channels, 1, groups)
        self.initial = _last(channels, 4)
        self.box_star, self.cls_star = _star(channels), _star(channels)
        self.relu = nn.ReLU()
        self.box = _last(channels, 4)
        self.scales = nn.Parameter(torch.ones(num_levels))
        self.cls = _last(channels, num_classes, math.log(prior_probability / (1 - prior_probability)))
        self.quality = _last(channels, 1) if quality else None

    def forward(
        self, cls_levels: Sequence[Tensor], box_levels: Sequence[Tensor], scales: Tensor, priors: Priors
    ) -> DenseOutput:
        anchored, unit = self.anchors.at(priors), self.anchors.base_scale
        logits, initial, factors, quality = [], [], [], []
        for i, (cls, box) in enumerate(zip(cls_levels, box_levels, strict=True)):
            first = self.initial_tower([box])[0]
            distances = (self.initial(first).float() * scales[i]).exp() * unit  # in strides, pixels of the map
            offsets = star_offsets(distances, self.gradient)
            refined = self.relu(self.box_star(box, offsets))
            initial.append(distances)
            factors.append((self.box(refined).float() * self.scales[i]).exp())
            logits.append(self.cls(self.relu(self.cls_star(cls, offsets))))
            if self.quality is not None:
                quality.append(self.quality(first if self.quality_source == "initial" else refined))
        first_sides = flatten_levels(initial) * anchored.strides[:, None]
        sides = flatten_levels(factors) * first_sides.detach()
        return DenseOutput(
            flatten_levels(logits),
            sides,
            boxes_from_distances(anchored.points, sides),
            anchored,
            flatten_levels(quality)[..., 0] if quality else None,
            initial=boxes_from_distances(anchored.points, first_sides),
        )


def _require(who: str, num_classes: int, anchors: Anchors) -> None:
    if num_classes < 1:
        raise ValueError(f"{who} expected at least one class, got {num_classes}.")
    if len(anchors) != 1 or anchors.ratios != (1.0,):
        raise ValueError(f"{who} expected one square anchor a point, got {len(anchors)} of ratios {anchors.ratios}.")


def _last(channels: int, out: int, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, bias)
    return conv


def _star(channels: int) -> DeformConv2d:
    conv = DeformConv2d(channels, channels, 3, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=0.01)
    return conv
