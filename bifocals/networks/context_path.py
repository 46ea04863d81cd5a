"""BiSeNet's context path: the deep, coarse features of a body brought back to 1/8 of the image (arXiv:1808.00897).

Letters: B images, D channels in, E channels out, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .conv_block import ConvBlock


class AttentionRefinement(nn.Module):
    """ARM: a 3x3 convolution whose channels are then weighed by their own averages over the image.

    Only `conv` sees the channels of the body: a body that changes its width slices its input channels alone.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvBlock(in_channels, channels)
        self.attention = nn.Conv2d(channels, channels, 1, bias=False)
        self.attention_bn = nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E h w"]:
        x = self.conv(x)
        weight = self.attention_bn(self.attention(x.mean((2, 3), keepdim=True)))  # [B, E, 1, 1]
        return x * torch.sigmoid(weight)


class ContextPath(nn.Module):
    """Features of strides 8, 16, 32 -> `channels` wide features of strides 8 and 16.

    The average of the coarsest features over the whole image is added to them; from there it goes up twice, nearest
    neighbor and a 3x3 convolution each time. in_channels: of C4 and C5; of C3 only the size is read.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 128) -> None:
        super().__init__()
        if len(in_channels) != 2:
            raise ValueError(f"ContextPath expected the channels of C4 and C5, got {list(in_channels)}.")
        of_c4, of_c5 = in_channels
        self.channels = channels
        self.refine16 = AttentionRefinement(of_c4, channels)
        self.refine32 = AttentionRefinement(of_c5, channels)
        self.whole = ConvBlock(of_c5, channels, kernel=1)
        self.up32 = ConvBlock(channels, channels)
        self.up16 = ConvBlock(channels, channels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        c3, c4, c5 = features
        deep = self.refine32(c5) + self.whole(c5.mean((2, 3), keepdim=True))
        at16 = self.up32(_nearest(deep, c4))
        at8 = self.up16(_nearest(self.refine16(c4) + at16, c3))
        return at8, at16


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=(like.shape[-2], like.shape[-1]), mode="nearest")
