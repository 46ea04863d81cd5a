"""The slot of a loss of pixels, and the label of pixels that do not count.

Letters: B images, C classes, H and W pixels.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

IGNORED = 255
"""The label of a pixel that counts neither in training nor in evaluation."""


class PixelLoss(Protocol):
    """A scalar of class logits [B C H W] and the class of each pixel, int64 [B H W], without a weight of its own.

    Pixels labeled `IGNORED` count nowhere; where none counts it is 0, with its graph. Stateful losses are modules.
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor: ...
