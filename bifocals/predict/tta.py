"""Test-time augmentation: one network looks at an image several times, larger, smaller and mirrored.

Letters: B images of a batch, V views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from bifocals.data import Input, eval_transform
from bifocals.structures import Batch, DenseOutput, Detections, Target

from .postprocess import Candidates, Postprocess

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

FACTORS = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
"""Of the size of a run: for 800 and 1333 these are 480 x 800 to 1280 x 2133, the six of FreeAnchor's release."""

MERGE_NMS = 0.6
"""The IoU of the NMS that merges the views of an output that has none of its own."""


@dataclass(frozen=True)
class Views:
    """How an image is looked at: through each transform and, with `flip`, through each a second time, mirrored.

    sizes: (short, long) sides that the transforms resize to.
    """

    transforms: tuple[Transform, ...]
    sizes: tuple[tuple[int, int], ...]
    flip: bool = False

    def __str__(self) -> str:
        scales = f"{len(self.sizes)} scales ({', '.join(str(short) for short, _ in self.sizes)})"
        return f"{scales}, mirrored too" if self.flip else scales


def multi_scale(
    input: Input, factors: Sequence[float] = FACTORS, shorts: Sequence[int] = (), flip: bool = False
) -> Views:
    """The views of a multi-scale test of a run with this input.

    factors: of its short and long side, rounded up. shorts: short sides in pixels in place of factors; the long side
    keeps its ratio. flip: also mirrored (FreeAnchor's and MAL's published numbers are without).

    ValueError for no scale, or one that is not positive.
    """
    wanted = [short / input.short for short in shorts] if shorts else list(factors)
    if not wanted or not all(0 < factor < math.inf for factor in wanted):
        raise ValueError(f"multi_scale expected at least one scale and only positive ones, got {shorts or factors}.")
    sizes = tuple((_up(input.short * factor), _up(input.long * factor)) for factor in wanted)
    return Views(tuple(eval_transform(replace(input, short=s, long=m, multiscale=())) for s, m in sizes), sizes, flip)


def merging(postprocess: Postprocess) -> Postprocess:
    """The same with an NMS: views see an object once each, so even an NMS-free output needs one to merge them."""
    return replace(postprocess, nms=MERGE_NMS) if postprocess.nms is None else postprocess


@torch.no_grad()
def detect_views(
    forward: Callable[[Batch], DenseOutput], postprocess: Postprocess, views: Sequence[Batch], flip: bool = False
) -> list[Detections]:
    """The detections of each image of a batch, from all its views together.

    Each view gives its candidates, in pixels of the original images; then one class-wise NMS over those of all views,
    and the best `max_detections`. views: the same images, each time resized in another way. flip: each view is also
    looked at mirrored. ValueError for a postprocess without NMS (see `merging`), and for no view.
    """
    if postprocess.nms is None:
        raise ValueError("detect_views expected a postprocess with NMS, got one with nms None: views see an object "
                         "once each; merging(postprocess) has one.")
    if not views:
        raise ValueError("detect_views expected at least one view, got none.")
    parts: list[list[Candidates]] = [[] for _ in views[0].targets]
    for batch in views:
        output = forward(batch)
        for i, target in enumerate(batch.targets):
            parts[i].append(postprocess.candidates(output, i, target))
        if flip:
            output = forward(mirrored(batch))
            for i, target in enumerate(batch.targets):
                found = postprocess.candidates(output, i, target)
                parts[i].append(replace(found, boxes=_mirrored_boxes(found.boxes, target.original_hw[1])))
    return [postprocess.choose(Candidates.joined(of_image)) for of_image in parts]


def mirrored(batch: Batch) -> Batch:
    """The same canvas with each image mirrored where it lies; of the targets only the sizes still hold."""
    images = batch.images.clone()
    for image, source, target in zip(images, batch.images, batch.targets, strict=True):
        width = target.size_hw[1]
        image[:, :, :width] = source[:, :, :width].flip(-1)
    return Batch(images, batch.targets)


def _mirrored_boxes(boxes: Float[Tensor, "S 4"], width: int) -> Float[Tensor, "S 4"]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def _up(pixels: float) -> int:
    return max(1, math.ceil(pixels - 1e-6))
