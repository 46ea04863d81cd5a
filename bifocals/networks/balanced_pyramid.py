"""Balanced feature pyramid: each level gets what all levels know together (Libra R-CNN, arXiv:1904.02701, section 3.2).

Letters: B images, C channels, H and W pixels of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Refine = Literal["zero", "xavier"]


class BalancedPyramid(nn.Module):
    """Levels -> the same levels, each plus its share of a refined mean of all (Eq. 4).

    All levels are brought to the size of level number `refine_level`, finer ones by adaptive max pooling, coarser ones
    by nearest neighbors; their mean goes through `NonLocal` and back to each level the same way. refine_level: 2 for
    P2..P6; Libra's RetinaNet has 1 for P3..P7. start: see `NonLocal`.
    """

    def __init__(self, channels: int = 256, refine_level: int = 2, start: Refine = "zero") -> None:
        super().__init__()
        if refine_level < 0:
            raise ValueError(f"BalancedPyramid expected refine_level of 0 or more, got {refine_level}.")
        self.refine_level = refine_level
        self.refine = NonLocal(channels, start)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        if self.refine_level >= len(levels):
            raise ValueError(f"BalancedPyramid expected a refine_level below the {len(levels)} levels of its pyramid, "
                             f"got {self.refine_level}.")
        size = levels[self.refine_level].shape[-2:]
        mean = torch.stack([resized(level, size) for level in levels]).mean(dim=0)
        refined = self.refine(mean)
        return [level + resized(refined, level.shape[-2:]) for level in levels]


def resized(level: Float[Tensor, "B C H W"], size_hw: Sequence[int]) -> Float[Tensor, "B C h w"]:
    """A level in another size: nearest neighbors to a larger one, adaptive max pooling to a smaller one."""
    height, width = level.shape[-2:]
    if (height, width) == tuple(size_hw):
        return level
    if size_hw[0] >= height:
        return F.interpolate(level, size=tuple(size_hw), mode="nearest")
    if height % size_hw[0] == 0 and width % size_hw[1] == 0:
        return F.max_pool2d(level, (height // size_hw[0], width // size_hw[1]))
    return _pooled(_pooled(level, -2, size_hw[0]), -1, size_hw[1])


def _pooled(level: Tensor, axis: int, size: int) -> Tensor:
    """Adaptive max pooling along an axis. Window by window, because ONNX has no operator for it; windows are few."""
    side = level.shape[axis]
    starts, ends = [i * side // size for i in range(size)], [-(-(i + 1) * side // size) for i in range(size)]
    return torch.stack([level.narrow(axis, a, b - a).amax(dim=axis) for a, b in zip(starts, ends, strict=True)], axis)


class NonLocal(nn.Module):
    """x + W softmax(theta(x) phi(x)^T) g(x): each pixel adds what it finds at all others (embedded Gaussian).

    As in Libra's release the products are not divided by the square root of the channels. Four 1x1 convolutions with
    bias. start: "xavier" starts all of them Xavier-uniform (the release); "zero" lets W start at zero, so that the
    module starts as the identity (mmdetection 3).
    """

    def __init__(self, channels: int = 256, start: Refine = "zero") -> None:
        super().__init__()
        if start not in get_args(Refine):
            raise ValueError(f"NonLocal expected start of {get_args(Refine)}, got {start!r}.")
        self.g = nn.Conv2d(channels, channels, 1)
        self.theta = nn.Conv2d(channels, channels, 1)
        self.phi = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for conv in (self.g, self.theta, self.phi, self.out):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        if start == "zero":
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        # [B, 1, HW, C]: one head, named so because ONNX knows attention with heads alone.
        theta, phi, g = (conv(x).flatten(2).transpose(1, 2)[:, None] for conv in (self.theta, self.phi, self.g))
        found = F.scaled_dot_product_attention(theta, phi, g, scale=1.0)[:, 0]
        return x + self.out(found.transpose(1, 2).reshape(x.shape))
