"""The tower of a dense head: 3x3 convolutions, with group norm or without, shared over the pyramid levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .deformable import ModulatedConv2d


@dataclass(frozen=True)
class Towers:
    """How wide and deep pyramid and towers are: 256 and 4 in the papers, less for small devices."""

    channels: int = 256
    """Channels of the pyramid and of the towers, a multiple of 32 from 64 on."""
    depth: int = 4
    """Convolutions of each tower."""
    shared: bool = True
    """All predictors read one pair of towers; else each has its own (DATE's Table 9)."""
    norm: Literal["group", "none"] = "group"
    """none: plain convolutions with a bias, as the first RetinaNets and MAL have them."""
    deformable: bool = False
    """The last convolution of each tower is a modulated deformable one (DCNv2)."""

    def __post_init__(self) -> None:
        if self.norm not in ("group", "none"):
            raise ValueError(f"Towers expected norm 'group' or 'none', got {self.norm!r}.")
        # With 32 channels a group of the norm is one channel, and P7 of a small image is one pixel: nothing to norm.
        if self.channels < 64 or self.channels % 32 or self.depth < 0:
            raise ValueError(f"Towers expected channels in multiples of 32 from 64 on and a depth of 0 or more, got "
                             f"{self.channels} and {self.depth}.")


class Tower(nn.Module):
    """`depth` times conv 3x3, GroupNorm(32), ReLU. Convolutions start N(0, .01), their biases 0, norms 1 / 0.

    groups: of the norm; None leaves the norm out. bias: whether the convolutions have one beside a norm, as DeFCN's
    do; without a norm they always have one. deformable: the last convolution is a `ModulatedConv2d`.
    """

    def __init__(
        self, channels: int = 256, depth: int = 4, groups: int | None = 32, bias: bool = False, deformable: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=bias or groups is None)
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            norm = [] if groups is None else [nn.GroupNorm(groups, channels)]
            moving = deformable and i == depth - 1
            layers += [ModulatedConv2d(conv) if moving else conv, *norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.layers(x) for x in levels]
