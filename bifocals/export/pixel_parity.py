"""Two label maps of the same pictures, with the logits behind them: are they the same?

Letters: C classes, h and w pixels of the un-padded picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class PixelTolerance:
    """How far two computations of one segmenter may lie apart. logit: before the softmax. miou: 0..1."""

    logit: float = 1e-3
    miou: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("logit", "miou"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"PixelTolerance expected {name} of at least 0, got {getattr(self, name)}; "
                                 "it is the greatest difference that passes.")


@dataclass(frozen=True)
class PixelMap:
    """What is said of one picture: the logits of each pixel and class, and the class that was chosen."""

    logits: Float[Tensor, "C h w"]
    labels: UInt8[Tensor, "h w"]


@dataclass(frozen=True)
class PixelDifference:
    """How two results differ: greatest difference of a logit, and how many pixels have another label.

    ties: pixels whose best two logits lie so close that differences within the tolerance may exchange them; they are
    not asked for their label. compared: all other pixels. other_share: `other` of them.
    """

    logit: float
    other: int
    ties: int
    compared: int
    other_share: float

    def within(self, tolerance: PixelTolerance) -> bool:
        return self.other == 0 and self.logit <= tolerance.logit

    def __or__(self, other: PixelDifference) -> PixelDifference:
        """The worse of both."""
        logit = float(np.maximum(self.logit, other.logit))  # NaN where one is
        return _difference(logit, self.other + other.other, self.ties + other.ties, self.compared + other.compared)

    def sentence(self) -> str:
        return (f"greatest difference {self.logit:.1e} of a logit, {self.other} of {self.compared} pixels with another "
                f"label, {self.ties} ties")


def compare_maps(
    expected: Sequence[PixelMap], got: Sequence[PixelMap], tolerance: PixelTolerance
) -> PixelDifference:
    """The difference over all pictures."""
    assert len(expected) == len(got) > 0, "one map an image"
    worst = _compare_map(expected[0], got[0], tolerance)
    for a, b in zip(expected[1:], got[1:], strict=True):
        worst |= _compare_map(a, b, tolerance)
    return worst


def _compare_map(a: PixelMap, b: PixelMap, tolerance: PixelTolerance) -> PixelDifference:
    if len(a.logits) > 1:
        first, second = a.logits.topk(2, dim=0).values
        tie = first - second <= 2 * tolerance.logit  # each of both may move by the tolerance
    else:
        tie = torch.zeros_like(a.labels, dtype=torch.bool)
    other = int(((a.labels != b.labels) & ~tie).sum())
    ties = int(tie.sum())
    return _difference(float((a.logits - b.logits).abs().max()), other, ties, tie.numel() - ties)


def _difference(logit: float, other: int, ties: int, compared: int) -> PixelDifference:
    return PixelDifference(logit, other, ties, compared, other / max(1, compared))
