"""BiSeNet V1: real-time semantic segmentation by two paths (arXiv:1808.00897).

Letters: B images, C classes, H and W pixels of the canvas, h and w cells of a map.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float, Num
from torch import Tensor, nn

from bifocals.structures import Target

from .context_path import ContextPath
from .conv_block import ConvBlock, init_convs
from .fusion import FeatureFusion, SpatialPath


class PixelHead(nn.Module):
    """Features -> class logits of the same size: a 3x3 convolution to `width` channels, and a 1x1 convolution."""

    def __init__(self, in_channels: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvBlock(in_channels, width)
        self.predict = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C h w"]:
        return self.predict(self.conv(x))


class BiSeNet(nn.Module):
    """images [B, 3, H, W], RGB 0..255, H and W multiples of `size_divisor` -> class logits at a stride of their own.

    `main`: stride 8. In training also `aux16` and `aux32`, heads on the context path, of strides 8 and 16; evaluation
    does not compute them. `STRIDES` says it for whoever enlarges them; nothing is enlarged here.

    backbone: gives C2..C5 of strides 4..32, has `channels` of each and `normalize` for the pixels; any body fits.
    spatial_path: without it there is no fusion, and the main head reads the context path alone. width: channels of both
    paths. head_width, aux_width: channels inside the heads. aux: False leaves the auxiliary heads out.
    """

    STRIDES: ClassVar[dict[str, int]] = {"main": 8, "aux16": 8, "aux32": 16}
    size_divisor = 32
    outputs = ("main",)

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        spatial_path: bool = True,
        head_width: int = 256,
        aux: bool = True,
        aux_width: int = 64,
        width: int = 128,
    ) -> None:
        super().__init__()
        body: Any = backbone
        self.num_classes = num_classes
        self.backbone = backbone
        self.context = ContextPath(body.channels[-2:], width)
        self.spatial = SpatialPath(width) if spatial_path else None
        # What learns ten times faster in the release: fusion and heads, all that is called head here.
        parts: dict[str, nn.Module] = {}
        read = width
        if self.spatial is not None:
            parts["fusion"] = FeatureFusion(2 * width, 2 * width)
            read = 2 * width
        parts["main"] = PixelHead(read, head_width, num_classes)
        if aux:
            parts |= {name: PixelHead(width, aux_width, num_classes) for name in ("aux16", "aux32")}
        self.head = nn.ModuleDict(parts)
        for part in (self.context, self.spatial, self.head):
            if part is not None:
                init_convs(part)

    def forward(
        self, images: Num[Tensor, "B 3 H W"], targets: Sequence[Target] | None = None
    ) -> dict[str, Float[Tensor, "B C _ _"]]:
        """The targets are not looked at. ValueError in training for a single image, which has no batch statistics."""
        if self.training and len(images) < 2:
            raise ValueError("BiSeNet expected at least 2 images at a time in training, got 1: batch norms over "
                             "averages of an image see one number for each; processes and --run.accumulate share a "
                             "batch.")
        at8, at16 = self.context(self.backbone(images)[1:])
        features = at8
        if self.spatial is not None:
            body: Any = self.backbone
            features = self.head["fusion"](self.spatial(body.normalize(images)), at8)
        outputs = {"main": self.head["main"](features)}
        if self.training and "aux16" in self.head:
            outputs |= {"aux16": self.head["aux16"](at8), "aux32": self.head["aux32"](at16)}
        return outputs

    def pruned(self, *outputs: str) -> BiSeNet:
        """A copy for inference: without the auxiliary heads. Its output stays bit-equal."""
        if set(outputs) != {"main"}:
            raise ValueError(f"BiSeNet.pruned expected outputs of {list(self.outputs)}, got {list(outputs)}.")
        copied = copy.deepcopy(self)
        for name in set(copied.head) & {"aux16", "aux32"}:
            del copied.head[name]
        return copied
