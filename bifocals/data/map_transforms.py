"""Size and augmentation of images with label maps. Pixels and labels move together, in training alone.

A transform takes (image uint8 [3 H W], Target with `semantic`) and returns the same. Its draws come from torch's global
generator, which the data set seeds for each image and restores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from bifocals.structures import IGNORED, Target

from .transforms import Transform

_CITYSCAPES = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class MapInput:
    """The size of images with label maps and how training varies them. The defaults are MoSegNAS's for Cityscapes."""

    factor: float = 1.0
    """Size of the picture before everything else, in training and evaluation: .5 is half of height and width."""
    scales: tuple[float, ...] = _CITYSCAPES
    """Factors on top of it to draw from in training, evenly."""
    crop_hw: tuple[int, int] = (768, 1536)
    """Height and width of the window that training sees; a smaller picture is padded to it."""
    flip: bool = True
    """Mirror every second image of training."""
    photometric: bool = False
    """Vary brightness, contrast and saturation of training images by up to a half."""

    @staticmethod
    def camvid(factor: float = 1.0) -> MapInput:
        """CamVid's 360x480 whole, at `factor`: the crop has the size of the picture before it is scaled."""
        return MapInput(factor, crop_hw=(round(360 * factor), round(480 * factor)))

    @staticmethod
    def voc() -> MapInput:
        """MoSegNAS's for Pascal VOC: windows of 512 pixels."""
        return MapInput(crop_hw=(512, 512))

    @staticmethod
    def coco_stuff() -> MapInput:
        """MoSegNAS's for COCO-Stuff-10K: windows of 640 pixels."""
        return MapInput(crop_hw=(640, 640))

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 16:
            raise ValueError(f"MapInput expected a factor above 0 and at most 16, got {self.factor}.")
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise ValueError(f"MapInput expected one scale or more, above 0 and at most 16, got {self.scales}.")
        if len(self.crop_hw) != 2 or min(self.crop_hw) < 1:
            raise ValueError(f"MapInput expected crop_hw to be a height and a width in pixels, got {self.crop_hw}.")


def map_train_transform(input: MapInput) -> Transform:
    """Random scale, mirror, window and light; the result has `crop_hw`, padded right and bottom with black and 255."""
    return MapTrain(input)


def map_eval_transform(input: MapInput) -> Transform:
    """The image at `factor`; labels stay as they are on disk, at `original_hw`. Draws nothing."""
    return MapEval(input)


class MapTrain:
    """The random transform of training; `map_train_transform` says what it does."""

    def __init__(self, input: MapInput) -> None:
        self.input = input
        self.light = v2.ColorJitter(0.5, 0.5, 0.5) if input.photometric else None

    def __call__(self, image: UInt8[Tensor, "3 H W"], target: Target) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        given, semantic = self.input, target.semantic
        if semantic is None:
            raise ValueError(f"map_train_transform expected a target with semantic labels, got image "
                             f"{target.image_id} without.")  # fmt: skip
        scale = given.scales[int(torch.randint(len(given.scales), ()))]
        flipped = given.flip and bool(torch.rand(()) < 0.5)
        size_hw = scaled_hw((image.shape[-2], image.shape[-1]), given.factor * scale)
        top, height = _window(size_hw[0], given.crop_hw[0])
        left, width = _window(size_hw[1], given.crop_hw[1])
        image = _resize(image, size_hw)[:, top : top + height, left : left + width]
        semantic = resize_labels(semantic, size_hw, slice(top, top + height), slice(left, left + width))
        if flipped:
            image, semantic = image.flip(-1), semantic.flip(-1)
        if self.light is not None:
            image = self.light(image)
        padded = image.new_zeros(3, *given.crop_hw)
        padded[:, :height, :width] = image
        labels = semantic.new_full(given.crop_hw, IGNORED)
        labels[:height, :width] = semantic
        return padded, replace(target, semantic=labels, size_hw=given.crop_hw)


class MapEval:
    """The transform of evaluation; `map_eval_transform` says what it does."""

    def __init__(self, input: MapInput) -> None:
        self.input = input

    def __call__(self, image: UInt8[Tensor, "3 H W"], target: Target) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        size_hw = scaled_hw((image.shape[-2], image.shape[-1]), self.input.factor)
        return _resize(image, size_hw), replace(target, size_hw=size_hw)


def scaled_hw(size_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    """Height and width times `factor`, rounded half up, at least a pixel."""
    return max(1, int(size_hw[0] * factor + 0.5)), max(1, int(size_hw[1] * factor + 0.5))


def resize_labels(
    labels: UInt8[Tensor, "H W"], size_hw: tuple[int, int], rows: slice = slice(None), columns: slice = slice(None)
) -> UInt8[Tensor, "h w"]:
    """A window of the labels at `size_hw`: each pixel takes the label of the source pixel that its center lies in.

    torch's `nearest` looks at corners in place of centers, which shifts labels by up to half a source pixel against an
    image that was resized bilinearly.
    """
    kept_rows = _centers(labels.shape[0], size_hw[0])[rows]
    kept_columns = _centers(labels.shape[1], size_hw[1])[columns]
    return torch.from_numpy(labels.numpy()[kept_rows].take(kept_columns, axis=1))  # torch's indexing takes five times


def _centers(old: int, new: int) -> NDArray[np.int64]:
    # Whole numbers: (i + 1/2) * old / new, rounded down, without a rounding error at borders of pixels.
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _resize(image: UInt8[Tensor, "3 H W"], size_hw: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    if (image.shape[-2], image.shape[-1]) == size_hw:
        return image
    return F.resize(image, list(size_hw), antialias=True)


def _window(side: int, wanted: int) -> tuple[int, int]:
    """Where the window starts and how long it is; a draw also where it fits in one way only, so that the draws that
    follow do not depend on the size of the picture."""
    length = min(side, wanted)
    return int(torch.randint(side - length + 1, ())), length
