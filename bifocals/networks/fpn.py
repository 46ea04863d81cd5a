"""Feature pyramid networks (arXiv:1612.03144): P3..P7 for dense detectors, P2..P6 for two-stage ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock


class ExtraLevels(ExtraFPNBlock):
    """P6 = conv(P5 or C5), P7 = conv(ReLU(P6)), both 3x3 of stride 2."""

    def __init__(self, c5_channels: int, channels: int, source: Literal["p5", "c5"], relu_before_p7: bool) -> None:
        super().__init__()
        self.source = source
        self.relu_before_p7 = relu_before_p7
        self.p6 = nn.Conv2d(channels if source == "p5" else c5_channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6(results[-1] if self.source == "p5" else x[-1])
        p7 = self.p7(F.relu(p6) if self.relu_before_p7 else p6)
        return [*results, p6, p7], [*names, "p6", "p7"]


class PooledLevel(ExtraFPNBlock):
    """P6 = every second pixel of P5."""

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        return [*results, F.max_pool2d(results[-1], 1, 2)], [*names, "p6"]


class FPN(nn.Module):
    """Features -> pyramid levels: 1x1 laterals, nearest upsampling, 3x3 outputs, no norm, no activation.

    extra: where P6 comes from. "p5" (FCOS, DATE) or "c5" (RetinaNet, OneNet): a convolution, and P7 another one, so
    C3, C4, C5 -> P3..P7 of strides 8..128. "pool": every second pixel of P5, so C2..C5 -> P2..P6 of strides 4..64
    (two-stage detectors). in_channels: of the features that are given. Weights start Xavier-uniform, biases 0.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        extra: Literal["p5", "c5", "pool"] = "p5",
        relu_before_p7: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        expected = 4 if extra == "pool" else 3
        if len(in_channels) != expected:
            raise ValueError(f"FPN with extra {extra!r} expected {expected} features, got {len(in_channels)}.")
        levels: ExtraFPNBlock
        if extra == "pool":
            self.strides = (4, 8, 16, 32, 64)
            levels = PooledLevel()
        else:
            levels = ExtraLevels(in_channels[-1], channels, extra, relu_before_p7)
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels, extra_blocks=levels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return list(self.pyramid(OrderedDict((f"{i}", x) for i, x in enumerate(features))).values())
