"""A branch over a map of class logits.

Letters: B images, C classes, H and W pixels of the canvas, h and w cells of the map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bifocals.structures import IGNORED, Balancer, PixelLoss, Target

from .branch import Branch


class PixelBranch(Branch):
    """Enlarges a map of logits to the canvas, bilinearly, and compares it with the class of every pixel.

    stride: pixels of the canvas in a cell of the map. Padding is labeled 255. The losses get logits [B C H W] and
    labels [B H W]. A target without `semantic` is refused with a ValueError.
    """

    def __init__(
        self,
        losses: Mapping[str, PixelLoss],
        balance: Balancer | None = None,
        *,
        stride: int = 8,
        source: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(balance, source, weight)
        if not losses:
            raise ValueError("PixelBranch expected at least one loss, got none.")
        if stride < 1:
            raise ValueError(f"PixelBranch expected a stride of at least 1 pixel, got {stride}.")
        self.losses = dict(losses)
        self.stride = stride
        # Registered so that a state dict holds them; a module that is not registered would be lost on resume.
        self.stateful = nn.ModuleDict({n: part for n, part in losses.items() if isinstance(part, nn.Module)})

    def forward(self, output: Float[Tensor, "B C h w"], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The raw losses."""
        size_hw = (output.shape[-2] * self.stride, output.shape[-1] * self.stride)
        labels = stack_labels(targets, size_hw)
        logits = F.interpolate(output, size=size_hw, mode="bilinear", align_corners=False)
        return {name: loss(logits, labels) for name, loss in self.losses.items()}

    def parts(self) -> Iterator[object]:
        yield from self.losses.values()


def stack_labels(targets: Sequence[Target], size_hw: tuple[int, int]) -> Int64[Tensor, "B H W"]:
    """The class of each pixel of a canvas of `size_hw`, 255 where there is no image. ValueError for missing labels."""
    missing = [t.image_id for t in targets if t.semantic is None]
    if missing:
        raise ValueError(f"PixelBranch expected targets with a class for each pixel, got none for images "
                         f"{missing[:5]}; detection sets have boxes alone.")
    maps = [t.semantic for t in targets if t.semantic is not None]
    height, width = max(m.shape[0] for m in maps), max(m.shape[1] for m in maps)
    if height > size_hw[0] or width > size_hw[1]:
        raise ValueError(f"PixelBranch expected labels of at most {size_hw[0]} x {size_hw[1]} pixels, the map's cells "
                         f"times the stride, got {height} x {width}.")
    labels = torch.full((len(maps), *size_hw), IGNORED, dtype=torch.int64, device=maps[0].device)
    for row, semantic in zip(labels, maps, strict=True):
        row[: semantic.shape[0], : semantic.shape[1]] = semantic
    return labels
