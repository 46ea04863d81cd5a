"""From a map of class logits to the label map of each picture.

Letters: B images, C classes, h and w cells of the map, H and W pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from bifocals.structures import Target


@dataclass(frozen=True)
class PixelPostprocess:
    """The class of each pixel of the original image.

    Logits are enlarged bilinearly to the canvas, cut to the un-padded image and, where that is not the original size,
    resized to it bilinearly as well; then the largest wins. Labels are never resized.

    stride: pixels of the canvas in a cell of the map.
    """

    stride: int = 8

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"PixelPostprocess expected a stride of at least 1 pixel, got {self.stride}.")

    @torch.no_grad()
    def __call__(self, logits: Float[Tensor, "B C h w"], targets: Sequence[Target]) -> list[UInt8[Tensor, "H W"]]:
        """The label map of each image, on the device of the logits. Of the targets only the sizes are read."""
        if len(targets) != len(logits):
            raise ValueError(f"PixelPostprocess expected a target for each image, got {len(targets)} targets for "
                             f"{len(logits)} images; it reads the sizes of the image from the target.")
        return [largest(self.at_original(logits, i, target)) for i, target in enumerate(targets)]

    @torch.no_grad()
    def at_original(self, logits: Float[Tensor, "B C h w"], image: int, target: Target) -> Float[Tensor, "C H W"]:
        """The logits of image number `image`, a float32 for each class and pixel of the original image."""
        canvas = (logits.shape[-2] * self.stride, logits.shape[-1] * self.stride)
        height, width = target.size_hw
        if height > canvas[0] or width > canvas[1]:
            raise ValueError(f"PixelPostprocess expected images of at most {canvas[0]} x {canvas[1]} pixels, the map's "
                             f"cells times the stride, got {height} x {width}.")
        one = logits[image : image + 1].float()
        if one.device.type == "cpu":  # three times faster where the classes of a pixel lie together
            one = one.contiguous(memory_format=torch.channels_last)
        if self.stride > 1:
            one = F.interpolate(one, size=canvas, mode="bilinear", align_corners=False)
        one = one[:, :, :height, :width]
        if target.original_hw != target.size_hw:
            one = F.interpolate(one, size=target.original_hw, mode="bilinear", align_corners=False)
        return one[0]


def largest(values: Float[Tensor, "C H W"]) -> UInt8[Tensor, "H W"]:
    """The class with the largest value of each pixel."""
    return values.argmax(dim=0).to(torch.uint8)
