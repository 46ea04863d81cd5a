"""Two lists of detections of the same pictures: are they the same?

Letters: D detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bifocals.structures import Detections


class Chooser(Protocol):
    """What a postprocess says about where it cuts the list of detections."""

    @property
    def score_threshold(self) -> float: ...

    @property
    def max_detections(self) -> int: ...


@dataclass(frozen=True)
class Tolerance:
    """How far two computations of one network may lie apart.

    box: pixels of the network's input. score: probability. ap: COCO AP, 0..1. mask: probability of a mask's cell.
    """

    box: float = 0.05
    score: float = 1e-4
    ap: float = 1e-3
    mask: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("box", "score", "ap", "mask"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Tolerance expected {name} of at least 0, got {getattr(self, name)}; "
                                 "it is the greatest difference that passes.")


@dataclass(frozen=True)
class Difference:
    """How two results differ: greatest difference of the paired detections, and how many found no partner.

    A detection without a partner counts only if its score is farther than the tolerance from where the list was cut:
    which of two equally good ones stays at a cut is decided by rounding. mask: None where there are no masks.
    """

    box: float
    score: float
    unpaired: int
    compared: int
    mask: float | None = None

    def within(self, tolerance: Tolerance) -> bool:
        return (self.unpaired == 0 and self.box <= tolerance.box and self.score <= tolerance.score
                and (self.mask is None or self.mask <= tolerance.mask))

    def __or__(self, other: Difference) -> Difference:
        """The worse of both."""
        masks = [mask for mask in (self.mask, other.mask) if mask is not None]
        return Difference(max(self.box, other.box), max(self.score, other.score), self.unpaired + other.unpaired,
                          self.compared + other.compared, max(masks, default=None))

    def sentence(self) -> str:
        mask = "" if self.mask is None else f", {self.mask:.1e} in a mask"
        return (f"greatest difference {self.box:.1e} px and {self.score:.1e} in score{mask}, {self.compared} "
                "detections compared")


def compare(
    expected: Sequence[Detections], got: Sequence[Detections], postprocess: Chooser, tolerance: Tolerance
) -> Difference:
    """The worst difference over all images; the order of detections of nearly equal scores does not matter."""
    assert len(expected) == len(got), "one list an image"
    worst = Difference(0.0, 0.0, 0, 0)
    for a, b in zip(expected, got, strict=True):
        worst |= _compare_image(a, b, postprocess, tolerance)
    return worst


def _compare_image(a: Detections, b: Detections, postprocess: Chooser, tolerance: Tolerance) -> Difference:
    # Pairs within ten tolerances, so that a difference just over the tolerance is reported as such, with its size.
    scores = (a.scores[:, None] - b.scores[None, :]).abs() / max(tolerance.score, 1e-9)
    boxes = (a.boxes[:, None] - b.boxes[None, :]).abs().amax(dim=2) / max(tolerance.box, 1e-9)  # [D, D]
    possible = (a.labels[:, None] == b.labels[None, :]) & (scores <= 10) & (boxes <= 10)
    # Closest first, in scores as well: boxes cut to a border are often equal.
    rows, columns = possible.nonzero(as_tuple=True)
    order = (scores + boxes)[rows, columns].argsort(stable=True)
    free_a, free_b = set(range(len(a))), set(range(len(b)))
    box = score = 0.0
    masks = None if a.masks is None else 0.0
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i in free_a and j in free_b:
            free_a.remove(i)
            free_b.remove(j)
            box = max(box, float((a.boxes[i] - b.boxes[j]).abs().max()))
            score = max(score, float((a.scores[i] - b.scores[j]).abs()))
            if masks is not None and a.masks is not None and b.masks is not None:
                masks = max(masks, float((a.masks[i] - b.masks[j]).abs().max()))
    lonely = [float(a.scores[i]) for i in free_a] + [float(b.scores[j]) for j in free_b]
    cut = _cut(a, b, postprocess)
    unpaired = sum(value > cut + tolerance.score for value in lonely)
    return Difference(box, score, unpaired, max(len(a), len(b)), masks)


def _cut(a: Detections, b: Detections, postprocess: Chooser) -> float:
    """The score below which detections were cut off: the last one of a full list, or the threshold."""
    full = [float(d.scores[-1]) for d in (a, b) if len(d) >= postprocess.max_detections]
    return max([postprocess.score_threshold, *full])
