"""Convolution, batch norm, ReLU: the brick of the segmentation heads.

Letters: B images, D channels in, E channels out, h and w cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """[B D h w] -> [B E h' w']: a convolution without bias, its batch norm, and ReLU. h' is h / stride, rounded up."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E _ _"]:
        return torch.relu(self.bn(self.conv(x)))


def init_convs(module: nn.Module) -> None:
    """Gives all convolutions inside the start of BiSeNet's release: He's without the gain of ReLU, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, a=1)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
