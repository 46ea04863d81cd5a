"""BiSeNet's spatial path, and how it is fused with the context path (arXiv:1808.00897).

Letters: B images, H and W pixels, S and D channels of the two paths, E channels out, h and w cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .conv_block import ConvBlock


class SpatialPath(nn.Module):
    """Normalized images -> `channels` wide features of stride 8, by three convolutions of stride 2: wide and shallow.

    width: channels on the way.
    """

    def __init__(self, channels: int = 128, width: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            ConvBlock(3, width, kernel=7, stride=2),
            ConvBlock(width, width, stride=2),
            ConvBlock(width, width, stride=2),
            ConvBlock(width, channels, kernel=1),
        )

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B S h w"]:
        return self.layers(images)


class FeatureFusion(nn.Module):
    """FFM: both paths side by side through a 1x1 convolution; then each channel is raised by a share of itself that its
    average over the image decides.

    The attention is one 1x1 convolution and a batch norm, as BiSeNet's later release has it; the paper's is two layers.
    """

    def __init__(self, in_channels: int, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.conv = ConvBlock(in_channels, channels, kernel=1)
        self.attention = nn.Conv2d(channels, channels, 1, bias=False)
        self.attention_bn = nn.BatchNorm2d(channels)

    def forward(self, spatial: Float[Tensor, "B S h w"], context: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E h w"]:
        x = self.conv(torch.cat([spatial, context], dim=1))
        weight = self.attention_bn(self.attention(x.mean((2, 3), keepdim=True)))  # [B, E, 1, 1]
        return x + x * torch.sigmoid(weight)
