"""One network looks at a picture several times and the label map is what all looks together say.

Letters: B images, C classes, H and W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as nn_functional
from torchvision.transforms.v2 import functional as F

from bifocals.data import collate
from bifocals.structures import Batch, Target

from .pixel_postprocess import PixelPostprocess, largest
from .tta import mirrored

Forward = Callable[[Batch], Tensor]
"""From a batch to class logits [B C h w], as `inference` gives it."""

OVERLAP = 1 / 3
"""The least share of a window that the next one sees again."""


@dataclass(frozen=True)
class MapViews:
    """How pictures are looked at.

    scales: factors on the size that the transform of evaluation gives. flip: at each scale also mirrored. The class
    probabilities of all looks are averaged at the size of the labels. window_hw: each look is made of overlapping
    windows of this height and width in place of the whole picture, the logits averaged where they overlap.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            raise ValueError(f"MapViews expected at least one scale and only positive ones, got {self.scales}.")
        if self.window_hw is not None and min(self.window_hw) < 1:
            raise ValueError(f"MapViews expected window_hw of at least a pixel, got {self.window_hw}.")

    @property
    def single(self) -> bool:
        """Whether there is one look, at the picture as it comes."""
        return self.scales == (1.0,) and not self.flip

    def __str__(self) -> str:
        scales = f"scale {self.scales[0]:g}" if len(self.scales) == 1 else (
            f"{len(self.scales)} scales ({', '.join(f'{s:g}' for s in self.scales)})")
        mirror = ", mirrored too" if self.flip else ""
        window = "" if self.window_hw is None else f", windows of {self.window_hw[0]} x {self.window_hw[1]}"
        return f"{scales}{mirror}{window}"


@torch.no_grad()
def segment(
    forward: Forward, batch: Batch, postprocess: PixelPostprocess, views: MapViews = MapViews(), divisor: int = 32
) -> list[UInt8[Tensor, "H W"]]:
    """The label map of each image of a batch at its original size, on the device of the logits.

    divisor: of the canvas's height and width, the network's own; windows are a multiple of it too.
    """
    if views.window_hw is not None:
        forward = windowed(forward, views.window_hw, postprocess.stride, divisor)
        postprocess = replace(postprocess, stride=1)
    if views.single:
        return postprocess(forward(batch), batch.targets)
    sums: list[Tensor | None] = [None] * len(batch.targets)
    for scale in views.scales:
        look = batch if scale == 1 else rescaled(batch, scale, divisor)
        for flipped in (False, True) if views.flip else (False,):
            logits = forward(mirrored(look) if flipped else look)
            for i, target in enumerate(look.targets):
                probabilities = postprocess.at_original(logits, i, target).softmax(dim=0)
                if flipped:
                    probabilities = probabilities.flip(-1)
                total = sums[i]
                sums[i] = probabilities if total is None else total + probabilities
    return [largest(total) for total in sums if total is not None]


def rescaled(batch: Batch, scale: float, divisor: int) -> Batch:
    """The images of a batch resized, on a canvas of their own; of the targets only the sizes still hold."""
    samples: list[tuple[Tensor, Target]] = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        height, width = target.size_hw
        size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
        resized = F.resize(image[:, :height, :width], list(size_hw), antialias=True)
        samples.append((resized, replace(target, size_hw=size_hw)))
    return collate(samples, divisor)


def windowed(forward: Forward, window_hw: tuple[int, int], stride: int, divisor: int) -> Forward:
    """The same function of a batch by overlapping windows, at the size of the canvas.

    A window is no larger than the canvas. ValueError for a window that `divisor` does not divide.
    """
    if any(side % divisor for side in window_hw):
        raise ValueError(f"Windows expected a height and width that the network's {divisor} divides, got {window_hw}.")

    def whole(batch: Batch) -> Float[Tensor, "B C H W"]:
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        high, wide = (min(side, window) for side, window in zip(canvas, window_hw, strict=True))
        total: Tensor | None = None
        looks = torch.zeros(canvas)
        for top in starts(canvas[0], high):
            for left in starts(canvas[1], wide):
                part = (slice(top, top + high), slice(left, left + wide))
                logits = forward(Batch(batch.images[:, :, part[0], part[1]], batch.targets)).float()
                logits = nn_functional.interpolate(logits, scale_factor=float(stride), mode="bilinear",
                                                   align_corners=False)
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], *canvas)
                total[:, :, part[0], part[1]] += logits
                looks[part] += 1
        assert total is not None
        return total / looks.to(total.device)

    return whole


def starts(side: int, window: int) -> list[int]:
    """Where windows start that cover `side` pixels, evenly, each seeing at least `OVERLAP` of the one before again."""
    if side <= window:
        return [0]
    number = math.ceil((side - window) / max(1, int(window * (1 - OVERLAP)))) + 1
    return [round(i * (side - window) / (number - 1)) for i in range(number)]
