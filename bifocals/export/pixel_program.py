"""What the exported file of a segmenter computes: the network with one output, enlarged, and the best class.

Letters: B images, C classes, H and W pixels of the input.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn


class PixelProgram(nn.Module):
    """images [B 3 H W], RGB 0..255, bytes or floats -> logits [B C H W], or with `argmax` labels [B H W].

    Logits are enlarged bilinearly to the input, as `PixelPostprocess` does; labels are bytes, of equally large logits
    the first class. All shapes but B are fixed.
    """

    def __init__(self, network: nn.Module, output: str, argmax: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.output = output
        self.argmax = argmax

    def forward(
        self, images: Num[Tensor, "B 3 H W"]
    ) -> Float[Tensor, "B C H W"] | UInt8[Tensor, "B H W"]:
        logits = self.network(images)[self.output]
        # Enlarged before the argmax: an enlarged map of best classes would be another one.
        logits = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return logits.argmax(dim=1).to(torch.uint8) if self.argmax else logits
