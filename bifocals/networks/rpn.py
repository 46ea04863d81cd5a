"""The region proposal network of two-stage detectors (Faster R-CNN, arXiv:1506.01497, section 3.1).

Letters: B images, P anchors of all levels, A anchors of a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bifocals.structures import Anchors, DeltaCoder, DenseOutput, make_points

from .predictor import flatten_levels

RPN_ANCHORS = Anchors(base_scale=8.0, scales_per_octave=1)
"""One square of 8 strides and its two shapes of equal area a point: 32 to 512 pixels on P2 to P6."""


class RPN(nn.Module):
    """Pyramid levels -> whether an object is near each anchor (one class), and the deltas of its box.

    A 3x3 convolution with ReLU, then two 1x1 convolutions, shared over the levels. Weights start N(0, .01), biases 0.
    Channels are anchor-major. Boxes are not clipped. strides: of the levels, finest first.
    """

    def __init__(
        self,
        strides: Sequence[int],
        channels: int = 256,
        anchors: Anchors = RPN_ANCHORS,
        coder: DeltaCoder = DeltaCoder(),
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.anchors = anchors
        self.coder = coder
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls = nn.Conv2d(channels, len(anchors), 1)
        self.box = nn.Conv2d(channels, len(anchors) * 4, 1)
        for conv in (self.conv, self.cls, self.box):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> DenseOutput:
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        anchored = self.anchors.at(make_points(sizes, self.strides, device=levels[0].device))
        assert anchored.boxes is not None
        hidden = [F.relu(self.conv(x)) for x in levels]
        logits = flatten_levels([self.cls(x) for x in hidden]).flatten(1)[..., None]  # [B, P, 1]
        deltas = flatten_levels([self.box(x) for x in hidden])
        deltas = deltas.unflatten(2, (len(self.anchors), 4)).flatten(1, 2)  # [B, P, 4]
        return DenseOutput(logits, deltas, self.coder.decode(anchored.boxes, deltas), anchored)
