"""Anchors: boxes of fixed sizes and shapes around every point of a pyramid.

Letters: P points, A anchors of a point; an anchored pyramid has P * A priors, the anchors of a point beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from .priors import Priors

AnchorRule = Literal["exact", "torchvision"]


@dataclass(frozen=True)
class Anchors:
    """RetinaNet's anchors (arXiv:1708.02002, section 4) by default: 9 a point, of sides 4 strides and more.

    base_scale: side of the smallest square anchor in strides. scales_per_octave: s scales 2^(0/s) .. 2^((s-1)/s).
    ratios: height / width, at equal area. offset: of the anchor's center in its cell, in strides; the modern
    implementations have 0. rounded: the sides are rounded at the size of one stride, before they are scaled.
    rule: "exact", or "torchvision" for weights that were trained with its anchors: the sides of squares are cut to
    whole pixels, corners rounded to whole pixels, and the points of a level lie canvas // points pixels apart, which is
    less than a stride where the level does not divide the canvas.

    `Anchors(offset=0.5, rounded=True)` are the anchors of the first RetinaNet releases, whose boxes count their last
    pixel (width = x2 - x1 + 1): here as everywhere x2 and y2 are one greater.
    The order of the anchors of a point is by ratio, then by scale.
    """

    base_scale: float = 4.0
    scales_per_octave: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    rounded: bool = False
    rule: AnchorRule = "exact"

    def __post_init__(self) -> None:
        if self.base_scale <= 0 or self.scales_per_octave < 1 or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"Anchors expected a positive base_scale, at least one scale an octave and positive "
                             f"ratios, got {self.base_scale}, {self.scales_per_octave} and {self.ratios}.")
        if self.rule not in get_args(AnchorRule):
            raise ValueError(f"Anchors expected a rule of {get_args(AnchorRule)}, got {self.rule!r}.")
        if self.rule == "torchvision" and (self.rounded or self.offset):
            raise ValueError(f"Anchors expected the rule 'torchvision' with offset 0 and not rounded, got offset "
                             f"{self.offset} and rounded {self.rounded}: it rounds in its own way.")

    def __len__(self) -> int:
        """Anchors of a point."""
        return len(self.ratios) * self.scales_per_octave

    def at(self, points: Priors) -> Priors:
        """The anchored pyramid over `points`, the centers of the cells (`make_points`)."""
        device = points.points.device
        octave = torch.arange(self.scales_per_octave, device=device, dtype=torch.float64) / self.scales_per_octave
        scales = (self.base_scale * 2**octave).float()  # [scales]
        ratios = torch.tensor(self.ratios, device=device)
        strides = points.strides[:, None]  # [P, 1]
        if self.rounded:
            width = (strides / ratios.sqrt()).round()
            height = (width * ratios).round()
        else:
            width, height = strides * (1 / ratios.sqrt()), strides * ratios.sqrt()  # [P, ratios]
        if self.rule == "torchvision":
            # Cut before the ratios come: its scales are whole numbers of pixels. 1e-3: 8 * 32 stays 256.
            squares = (strides * scales + 1e-3).floor()[:, None, :, None]  # [P, 1, scales, 1]
            shapes = torch.stack([1 / ratios.sqrt(), ratios.sqrt()], dim=-1)[:, None]  # [ratios, 1, 2]
            half = (squares * shapes / 2).round().flatten(1, 2)  # [P, A, 2]
            centers = _spread(points)[:, None].expand(-1, len(self), -1)
        else:
            sides = torch.stack([width, height], dim=-1)[:, :, None] * scales[:, None]  # [P, ratios, scales, 2]
            half = sides.flatten(1, 2) / 2  # [P, A, 2]
            centers = (points.points + (self.offset - 0.5) * strides)[:, None].expand(-1, len(self), -1)
        return replace(
            points,
            points=centers.flatten(0, 1),
            strides=points.strides.repeat_interleave(len(self)),
            level_sizes=tuple(n * len(self) for n in points.level_sizes),
            boxes=torch.cat([centers - half, centers + half], dim=-1).flatten(0, 1),
        )


def _spread(points: Priors) -> Tensor:
    """[P, 2] the points of each level from (0, 0) on, canvas // points apart; the canvas is what the finest covers."""
    if points.level_hw is None:
        raise ValueError("Anchors with the rule 'torchvision' expected the points of a grid (make_points), got others.")
    finest, stride = points.level_hw[0], points.strides[0]
    levels = []
    for height, width in points.level_hw:
        y, x = (
            torch.arange(n, device=stride.device) * torch.div(stride * whole, n, rounding_mode="floor")
            for n, whole in ((height, finest[0]), (width, finest[1]))
        )
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        levels.append(torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=-1))
    return torch.cat(levels)


def inside_canvas(priors: Priors, canvas_hw: tuple[int, int]) -> Bool[Tensor, "P"]:
    """Whether the prior's point lies left of and above the border of a canvas of this size.

    Where images of several sizes share a batch, priors in the padding of the smaller ones predict nothing.
    """
    height, width = canvas_hw
    return (priors.points[:, 0] < width) & (priors.points[:, 1] < height)
