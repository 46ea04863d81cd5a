"""The tower of a dense head: 3x3 convolutions with group norm, shared over the pyramid levels."""

from __future__ import annotations

from torch import Tensor, nn


class Tower(nn.Module):
    """`depth` times conv 3x3 (no bias), GroupNorm(32), ReLU. Convolutions start N(0, .01), norms 1 / 0."""

    def __init__(self, channels: int = 256, depth: int = 4, groups: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            nn.init.normal_(conv.weight, std=0.01)
            layers += [conv, nn.GroupNorm(groups, channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.layers(x) for x in levels]
