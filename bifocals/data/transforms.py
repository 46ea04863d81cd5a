"""Size and augmentation: torchvision.transforms.v2 on bytes.

A transform takes (image uint8 [3 H W], Target) and returns the same. Its random ops draw from torch's global
generator, which the data set seeds for each image and restores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from bifocals.structures import Target, clip_boxes

Transform = Callable[[UInt8[Tensor, "3 H W"], Target], tuple[UInt8[Tensor, "3 h w"], Target]]

_DETR_SHORTS = tuple(range(480, 801, 32))  # these three are DETR's for a short side of 800; others scale with it
_DETR_BEFORE_CROP = (400, 500, 600)
_DETR_CROP = (384, 600)


@dataclass(frozen=True)
class Input:
    """The size of the images and how training varies them."""

    short: int = 800
    """Pixels of the shorter side after resizing."""
    long: int = 1333
    """Upper bound in pixels of the longer side; the shorter one gives way."""
    augment: Literal["none", "flip", "detr"] = "flip"
    """none; flip: mirror every second image; detr: flip, then resize, or crop and resize, as DETR does."""
    multiscale: tuple[int, ...] = ()
    """Short sides to draw from in training, in place of `short`; for detr in place of its 480 to 800."""
    photometric: bool = False
    """Vary brightness, contrast, saturation and hue in training."""

    @staticmethod
    def detr() -> Input:
        """DETR's augmentation (arXiv:2005.12872), DATE's for 36 epochs of COCO: short sides 480, 512 ... 800, half of
        the images cropped before."""
        return Input(augment="detr")

    @staticmethod
    def crowdhuman() -> Input:
        """DATE's for CrowdHuman: as `detr`, with short sides 640, 672 ... 896 and long ones up to 1400; 800 by up to
        1400 in evaluation."""
        return Input(short=800, long=1400, augment="detr", multiscale=tuple(range(640, 897, 32)))

    def __post_init__(self) -> None:
        if self.short < 1 or self.long < self.short:
            raise ValueError(f"Input expected 1 <= short <= long, got short={self.short} and long={self.long}.")
        if self.augment not in ("none", "flip", "detr"):
            raise ValueError(f"Input expected augment to be none, flip or detr, got {self.augment!r}.")
        if any(short < 1 or short > self.long for short in self.multiscale):
            raise ValueError(f"Input expected multiscale sides from 1 to long={self.long}, got {self.multiscale}.")


def eval_transform(input: Input) -> Transform:
    """Resizes so that the short side is `short`, or less where the long one would exceed `long`. Draws nothing."""
    return _Applied(v2.Compose([ResizeShort((input.short,), input.long)]), sanitize=False)


def train_transform(input: Input) -> Transform:
    """The random transform of training. Boxes narrower or lower than a pixel afterwards are dropped."""
    ops: list[v2.Transform] = []
    if input.augment != "none":
        ops.append(v2.RandomHorizontalFlip(0.5))
    shorts = input.multiscale or (input.short,)
    if input.augment == "detr":
        scale = input.short / 800
        shorts = input.multiscale or _scaled(_DETR_SHORTS, scale)
        crop = v2.Compose(
            [
                ResizeShort(_scaled(_DETR_BEFORE_CROP, scale)),
                RandomSizeCrop(*_scaled(_DETR_CROP, scale)),
                ResizeShort(shorts, input.long),
            ]
        )
        ops.append(v2.RandomChoice([ResizeShort(shorts, input.long), crop]))
    else:
        ops.append(ResizeShort(shorts, input.long))
    if input.photometric:
        ops.append(v2.RandomPhotometricDistort())
    return _Applied(v2.Compose(ops), sanitize=True)


def resized_hw(size_hw: tuple[int, int], short: int, long: int | None) -> tuple[int, int]:
    """Height and width with the short side `short`, the long one at most `long`, the ratio kept, rounded."""
    scale = short / min(size_hw)
    if long is not None:
        scale = min(scale, long / max(size_hw))
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))


class ResizeShort(v2.Transform):
    """Resizes the short side to one of `shorts`, drawn evenly; the long side stays at most `long` pixels."""

    def __init__(self, shorts: Sequence[int], long: int | None = None) -> None:
        super().__init__()
        self.shorts, self.long = tuple(shorts), long

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        index = 0 if len(self.shorts) == 1 else int(torch.randint(len(self.shorts), ()))
        height, width = _size_hw(flat_inputs)
        return {"size": resized_hw((height, width), self.shorts[index], self.long)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return _resize_map(inpt, params["size"])
        return self._call_kernel(F.resize, inpt, list(params["size"]), antialias=True)


class RandomSizeCrop(v2.Transform):
    """Crops a window whose height and width are drawn apart from [low, high], or less where the image is smaller."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = {}
        for name, start, side in zip(("height", "width"), ("top", "left"), _size_hw(flat_inputs), strict=True):
            low, high = min(side, self.low), min(side, self.high)
            params[name] = int(torch.randint(low, high + 1, ()))
            params[start] = int(torch.randint(side - params[name] + 1, ()))
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)


class _Applied:
    """Runs a v2 transform on an image and a Target. Picklable, so that workers can be spawned."""

    def __init__(self, transform: v2.Transform, sanitize: bool) -> None:
        self.transform, self.sanitize = transform, sanitize

    def __call__(self, image: UInt8[Tensor, "3 H W"], target: Target) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        size_hw = (image.shape[-2], image.shape[-1])
        boxes = tv_tensors.BoundingBoxes(target.boxes, format="XYXY", canvas_size=size_hw)
        # Maps of pixels follow the image; the draws depend on the image alone, so that they change nothing else.
        given = {name: getattr(target, name) for name in ("masks", "semantic") if getattr(target, name) is not None}
        image, boxes, *maps = self.transform(tv_tensors.Image(image), boxes, *map(tv_tensors.Mask, given.values()))
        found = {name: map.as_subclass(Tensor) for name, map in zip(given, maps, strict=True)}
        size_hw = (image.shape[-2], image.shape[-1])
        image, plain = image.as_subclass(Tensor), boxes.as_subclass(Tensor)
        plain = clip_boxes(plain, size_hw)  # rounding puts some a hair outside
        labels, crowd = target.labels, target.crowd
        if self.sanitize:
            keep = ((plain[:, 2:] - plain[:, :2]) >= 1).all(dim=1)
            plain, labels, crowd = plain[keep], labels[keep], crowd[keep]
            if "masks" in found:
                found["masks"] = found["masks"][keep]
        return image, replace(target, boxes=plain, labels=labels, crowd=crowd, size_hw=size_hw, **found)


def _resize_map(map: tv_tensors.Mask, size_hw: tuple[int, int]) -> tv_tensors.Mask:
    """Each pixel takes the value of the source pixel that its center lies in.

    Not v2's own `nearest`, which looks at corners: maps would lie up to half a source pixel beside the image.
    """
    planes = map.as_subclass(Tensor).reshape(-1, *map.shape[-2:])
    resized = F.resize_image(planes, list(size_hw), interpolation=v2.InterpolationMode.NEAREST_EXACT)
    return tv_tensors.wrap(resized.reshape(*map.shape[:-2], *size_hw), like=map)


def _size_hw(flat_inputs: list[Any]) -> tuple[int, int]:
    for item in flat_inputs:
        if isinstance(item, tv_tensors.Image):
            return item.shape[-2], item.shape[-1]
    raise TypeError(f"A transform expected an image, got {[type(item).__name__ for item in flat_inputs]}.")


def _scaled(sides: Sequence[int], scale: float) -> tuple[int, ...]:
    return tuple(max(1, round(side * scale)) for side in sides)
