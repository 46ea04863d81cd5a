"""Pictures of any size in an input of one size.

Letters: h and w pixels of a picture, H and W of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from bifocals.data.transforms import resized_hw
from bifocals.structures import Batch, Target

Size = tuple[int, int]


def fit(
    image: UInt8[Tensor, "3 h w"], input_hw: Size, resize: tuple[int, int] | None = None
) -> tuple[UInt8[Tensor, "3 H W"], Size]:
    """The picture inside `input_hw`, padded with zeros right and bottom, and its size there.

    resize: short and greatest long side; the picture is resized to them exactly as in training, and becomes smaller
    only where it would not fit. None: as large as fits. The ratio of the sides is kept.
    """
    return place(image, input_hw, _resized_to(resize))


def fit_batch(images: Sequence[Tensor], input_hw: Size, resize: tuple[int, int] | None = None) -> Batch:
    """Pictures (RGB bytes [3 h w], any sizes) as one batch of the input's size, with targets that hold the sizes."""
    return place_batch(images, input_hw, _resized_to(resize))


def place(
    image: UInt8[Tensor, "3 h w"], input_hw: Size, wanted: Callable[[Size], Size] | None
) -> tuple[UInt8[Tensor, "3 H W"], Size]:
    """`fit` with the size of training as a function of the picture's; None for as large as fits."""
    size_hw = (image.shape[-2], image.shape[-1])
    if wanted is not None:
        size_hw = wanted(size_hw)
    if wanted is None or size_hw[0] > input_hw[0] or size_hw[1] > input_hw[1]:
        scale = min(input_hw[0] / size_hw[0], input_hw[1] / size_hw[1])
        height, width = (max(1, int(side * scale + 0.5)) for side in size_hw)
        size_hw = (min(height, input_hw[0]), min(width, input_hw[1]))
    canvas = torch.zeros(3, *input_hw, dtype=torch.uint8)
    canvas[:, : size_hw[0], : size_hw[1]] = F.resize(image, list(size_hw), antialias=True)
    return canvas, size_hw


def place_batch(images: Sequence[Tensor], input_hw: Size, wanted: Callable[[Size], Size] | None) -> Batch:
    """`fit_batch` with the size of training as a function of the picture's."""
    none = torch.zeros(0)
    canvases, targets = [], []
    for image in images:
        canvas, size_hw = place(image, input_hw, wanted)
        original_hw = (image.shape[-2], image.shape[-1])
        targets.append(Target(none.reshape(0, 4), none.long(), none.bool(), size_hw, original_hw))
        canvases.append(canvas)
    return Batch(torch.stack(canvases), tuple(targets))


def _resized_to(resize: tuple[int, int] | None) -> Callable[[Size], Size] | None:
    return None if resize is None else lambda size_hw: resized_hw(size_hw, *resize)
