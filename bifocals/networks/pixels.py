"""Pixels to network input: the normalization is part of the network, so training and export cannot disagree."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

Style = Literal["caffe", "pytorch"]

IMAGENET_MEAN, IMAGENET_STD = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
CAFFE_MEAN_BGR = (102.9801, 115.9465, 122.7717)


class Normalize(nn.Module):
    """RGB pixels 0..255, bytes or floats, to what the body's weights were trained on.

    pytorch: (x - mean) / std of ImageNet, RGB. caffe: x - mean, BGR, as the original ResNet weights want it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, style: Style) -> None:
        super().__init__()
        if style not in ("caffe", "pytorch"):
            raise ValueError(f"Normalize expected style 'caffe' or 'pytorch', got {style!r}.")
        self.style = style
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if style == "pytorch" else (CAFFE_MEAN_BGR, (1.0, 1.0, 1.0))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Num[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        pixels = images.to(self.mean.dtype)
        if self.style == "caffe":
            pixels = pixels.flip(1)
        return (pixels - self.mean) / self.std
