"""Losses of pixels: class logits against the class of each pixel.

A loss of pixels is called with (logits [B C H W], labels [B H W]) and gives a scalar. Pixels labeled `ignore` count
nowhere; where none counts the loss is 0, with its graph.

Letters: B images, C classes, H and W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from bifocals.structures import IGNORED, sum_over_ranks, world_size

PixelNormalizer = Literal["local", "reduced"]
"""What a sum over pixels is divided by: the pixels of this process (local, the originals), or the mean of that over all
processes (reduced), which makes the averaged gradient that of the whole batch."""


@dataclass(frozen=True)
class PixelCE:
    """Cross-entropy, the mean over pixels that count."""

    normalizer: PixelNormalizer = "local"
    ignore: int = IGNORED

    def __post_init__(self) -> None:
        _require_normalizer("PixelCE", self.normalizer)

    def __call__(self, logits: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
        total = F.cross_entropy(logits, labels, ignore_index=self.ignore, reduction="sum")
        return total / _divisor((labels != self.ignore).sum(), self.normalizer)


@dataclass(frozen=True)
class OHEM:
    """Cross-entropy of the hard pixels alone: online hard example mining as BiSeNet does it (arXiv:1808.00897).

    Hard are the pixels whose class has a probability below `probability`. Where they are fewer than `least` of those
    that count, rounded down, the pixels with the largest losses are taken, as many as that share says; one at least.
    """

    probability: float = 0.7
    least: float = 1 / 16
    normalizer: PixelNormalizer = "local"
    ignore: int = IGNORED

    def __post_init__(self) -> None:
        _require_normalizer("OHEM", self.normalizer)
        if not 0 < self.probability < 1 or not 0 <= self.least <= 1:
            raise ValueError(f"OHEM expected a probability between 0 and 1 and least, a share, from 0 to 1, got "
                             f"{self.probability} and {self.least}.")

    def __call__(self, logits: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignore, reduction="none").flatten()  # 0 if ignored
        with torch.no_grad():
            hard = losses > -math.log(self.probability)
            counts = torch.stack([hard.sum(), (labels != self.ignore).sum()])
            num_hard, num_valid = counts.tolist()
        least = min(num_valid, max(1, int(num_valid * self.least)))
        if num_hard >= least:
            return (losses * hard).sum() / _divisor(counts[0], self.normalizer)
        return losses.topk(least).values.sum() / _divisor(counts.new_tensor(least), self.normalizer)


@dataclass(frozen=True)
class Dice:
    """1 - 2 overlap / (predicted + true pixels), softly, the mean over the classes that occur in the batch.

    Eq. of V-Net (arXiv:1606.04797) on class probabilities, without its squares unless `squared`. smooth: added above
    and below the line, in pixels.
    """

    smooth: float = 1.0
    squared: bool = False
    ignore: int = IGNORED

    def __post_init__(self) -> None:
        if self.smooth < 0:
            raise ValueError(f"Dice expected smooth of 0 or more pixels, got {self.smooth}.")

    def __call__(self, logits: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B H W"]) -> Float[Tensor, ""]:
        counted = labels != self.ignore
        classes = torch.where(counted, labels, 0)
        probabilities = logits.softmax(dim=1) * counted[:, None]
        own = probabilities.gather(1, classes[:, None]).flatten()  # of each pixel's class; 0 where it does not count
        none = logits.new_zeros(logits.shape[1])
        overlap = none.index_add(0, classes.flatten(), own)  # [C]
        true = none.index_add(0, classes.flatten(), counted.flatten().to(own.dtype))
        predicted = (probabilities.square() if self.squared else probabilities).sum((0, 2, 3))
        gap = 1 - (2 * overlap + self.smooth) / (predicted + true + self.smooth).clamp(min=1e-12)
        occurs = true > 0
        return (gap * occurs).sum() / occurs.sum().clamp(min=1)


def _divisor(pixels: Tensor, normalizer: PixelNormalizer) -> Tensor:
    if normalizer == "reduced":
        return sum_over_ranks(pixels).clamp(min=1) / world_size()
    return pixels.clamp(min=1)


def _require_normalizer(who: str, normalizer: str) -> None:
    if normalizer not in get_args(PixelNormalizer):
        raise ValueError(f"{who} knows the normalizers {get_args(PixelNormalizer)}, got {normalizer!r}.")
