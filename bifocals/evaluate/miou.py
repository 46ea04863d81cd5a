"""Which class was taken for which: the counts behind the numbers of semantic segmentation.

Letters: C classes, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from bifocals.structures import IGNORED

Rule = Literal["exact", "plus_one"]
"""exact: IoU is overlap / union (mmsegmentation). plus_one: overlap / (union + 1), as BiSeNet's release prints it."""


def confusion_matrix(
    truth: UInt8[Tensor, "H W"], predicted: UInt8[Tensor, "H W"], num_classes: int
) -> Int64[Tensor, "C C"]:
    """How many pixels of each true class (row) were given each class (column); pixels of truth 255 are left out.

    ValueError for maps of different sizes, or with a label that is neither a class nor 255.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"confusion_matrix expected maps of one size, got labels of {list(truth.shape)} and a "
                         f"prediction of {list(predicted.shape)}: logits are resized to the labels, never labels.")
    # One place for every pair of bytes: no pixel has to be left out before it is counted.
    pairs = torch.bincount((truth.int() * 256 + predicted).flatten(), minlength=256 * 256).view(256, 256)[:IGNORED]
    counts = pairs[:num_classes, :num_classes]
    if int(counts.sum()) != int(pairs.sum()):
        strange = {name: [int(i) for i in pairs.sum(axis).nonzero()[:, 0] if i >= num_classes][:5]
                   for name, axis in (("labels", 1), ("predictions", 0))}
        raise ValueError(f"confusion_matrix expected classes from 0 to {num_classes - 1}, or {IGNORED} as a label, got "
                         f"others: {', '.join(f'{name} {values}' for name, values in strange.items() if values)}.")
    return counts.clone()


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix, rows truth and columns prediction, and what follows from it.

    Numbers of a class are NaN where they divide nothing by nothing; means leave those classes out, so a class that
    neither occurs nor is predicted plays no part, and one that is only predicted counts with IoU 0.
    """

    counts: Int64[Tensor, "C C"]
    rule: Rule = "exact"

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"Confusion knows the rules {get_args(Rule)}, got {self.rule!r}.")

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Right pixels, true pixels and predicted pixels of each class."""
        counts = self.counts.double()
        return counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)

    @property
    def _added(self) -> int:
        """What the rule adds below the line."""
        return 1 if self.rule == "plus_one" else 0

    @property
    def iou(self) -> Float64[Tensor, "C"]:
        """Overlap over union of each class."""
        right, true, predicted = self._parts
        return right / (true + predicted - right + self._added)

    @property
    def miou(self) -> float:
        """The mean IoU."""
        return float(self.iou.nanmean())

    @property
    def accuracy(self) -> Float64[Tensor, "C"]:
        """The share of the true pixels of a class that were found: its recall."""
        right, true, _ = self._parts
        return right / (true + self._added)

    @property
    def mean_accuracy(self) -> float:
        return float(self.accuracy.nanmean())

    @property
    def precision(self) -> Float64[Tensor, "C"]:
        """The share of the predicted pixels of a class that are right."""
        right, _, predicted = self._parts
        return right / (predicted + self._added)

    @property
    def pixel_accuracy(self) -> float:
        """The share of all pixels that are right."""
        right, true, _ = self._parts
        return float(right.sum() / true.sum())

    @property
    def dice(self) -> Float64[Tensor, "C"]:
        """Twice the overlap over the true and the predicted pixels: F1 of each class, without what a rule adds."""
        right, true, predicted = self._parts
        return 2 * right / (true + predicted)

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by the share of the true pixels."""
        _, true, _ = self._parts
        return float((true / true.sum() * self.iou).nansum())

    @property
    def macro_f1(self) -> float:
        """The mean over classes of 2 PR / (P + R), P and R precision and recall under the rule."""
        f1 = 2 * self.precision * self.accuracy / (self.precision + self.accuracy)
        return float(torch.where(self.precision + self.accuracy == 0, 0.0, f1).nanmean())

    @property
    def micro_f1(self) -> float:
        """2 PR / (P + R) of all pixels together."""
        right, true, predicted = (float(part.sum()) for part in self._parts)
        precision, recall = right / (predicted + self._added), right / (true + self._added)
        return 2 * precision * recall / (precision + recall) if right else 0.0
