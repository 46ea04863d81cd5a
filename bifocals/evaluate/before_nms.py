"""What NMS has to choose from, and whether it chooses well: the boxes of an output before NMS.

Letters: G objects of an image, M pairs of a box and an object, T IoU thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import rankdata
from torch import Tensor

from bifocals.predict import MERGE_NMS, Candidates, Postprocess
from bifocals.structures import pairwise_iou

TAUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(9))
"""IoU thresholds of the NMS-recall: .5, .55 ... .9."""

LEAST_SCORE = 0.05
"""Boxes of a class probability up to this are not looked at, whatever the output's postprocess keeps."""

_PER_LEVEL = 10_000


@dataclass(frozen=True, eq=False)
class Look:
    """One image before NMS.

    before, after: of each object, the best IoU of any box before and after NMS. scores, ious: of each box that touches
    an object of its class, the score and the IoU with the best such object.
    """

    before: Float[np.ndarray, "G"]
    after: Float[np.ndarray, "G"]
    scores: Float[np.ndarray, "M"]
    ious: Float[np.ndarray, "M"]


@dataclass(frozen=True, eq=False)
class BeforeNMS:
    """How good the boxes before NMS are, and how well their scores say so.

    nms: IoU of the NMS. objects: of the set, crowd regions apart. found_before, found_after: those with a box of an IoU
    above each of `TAUS` before and after NMS. correlation: Spearman's rank correlation of score and IoU over all boxes
    that touch an object of their class (`boxes` of them); correlation_50: over those of an IoU above .5 alone
    (`boxes_50`), where misplaced boxes and background do not enter. NaN where there are fewer than two, or all are
    equal.
    """

    nms: float
    objects: int
    found_before: Int64[np.ndarray, "T"]
    found_after: Int64[np.ndarray, "T"]
    boxes: int
    correlation: float
    boxes_50: int
    correlation_50: float

    @property
    def nms_recall(self) -> Float[np.ndarray, "T"]:
        """NR of each threshold: objects found after NMS, of those found before it; NaN where none was."""
        none = np.full(len(TAUS), np.nan)
        return np.divide(self.found_after, self.found_before, out=none, where=self.found_before > 0)

    @property
    def mean_nms_recall(self) -> float:
        """The mean over the thresholds that have one, NaN where none has."""
        real = self.nms_recall[self.found_before > 0]
        return float(real.mean()) if len(real) else math.nan

    @staticmethod
    def of(looks: Sequence[Look], nms: float) -> BeforeNMS:
        """The looks at all images of a set together."""
        before, after, scores, ious = (
            np.concatenate([np.zeros(0), *[getattr(look, name) for look in looks]])
            for name in ("before", "after", "scores", "ious")
        )
        near = ious > 0.5
        return BeforeNMS(
            nms=nms,
            objects=len(before),
            found_before=np.array([(before > tau).sum() for tau in TAUS], dtype=np.int64),
            found_after=np.array([(after > tau).sum() for tau in TAUS], dtype=np.int64),
            boxes=len(scores),
            correlation=rank_correlation(scores, ious),
            boxes_50=int(near.sum()),
            correlation_50=rank_correlation(scores[near], ious[near]),
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers by name; NaN becomes None."""
        return {
            "nms": self.nms,
            "objects": self.objects,
            "nms_recall": {f"{tau:.2f}": _or_none(float(r)) for tau, r in zip(TAUS, self.nms_recall, strict=True)},
            "mean_nms_recall": _or_none(self.mean_nms_recall),
            "found_before": self.found_before.tolist(),
            "found_after": self.found_after.tolist(),
            "boxes": self.boxes,
            "correlation": _or_none(self.correlation),
            "boxes_above_50": self.boxes_50,
            "correlation_above_50": _or_none(self.correlation_50),
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        of_tau = zip(TAUS[::2], self.nms_recall[::2].tolist(), strict=True)
        return [
            f"NMS-recall at NMS {self.nms:g}: mean {_short(self.mean_nms_recall)}; of objects found at IoU above "
            + ", ".join(f"{tau:.1f}: {_short(recall)}" for tau, recall in of_tau),
            f"rank correlation of score and IoU before NMS: {_short(self.correlation)} over {self.boxes} boxes that "
            f"touch an object of their class, {_short(self.correlation_50)} over the {self.boxes_50} of IoU above .5",
        ]


def without_limits(postprocess: Postprocess) -> Postprocess:
    """What the looks use: every box of a class probability above .05, without a limit of detections.

    Of a level still the best 10,000 alone, which only a network that has not learned reaches. The IoU of the NMS is the
    postprocess's own, or .6 where it has none.
    """
    return replace(
        postprocess, score_threshold=max(LEAST_SCORE, postprocess.score_threshold), per_level=_PER_LEVEL,
        max_detections=100 * _PER_LEVEL, nms=postprocess.nms or MERGE_NMS,
    )  # fmt: skip


@torch.no_grad()
def look_before_nms(
    postprocess: Postprocess, found: Candidates, boxes: Float[Tensor, "G 4"], labels: Int64[Tensor, "G"]
) -> Look:
    """One image: its candidates, and its objects in pixels of the original image, crowd regions apart.

    NMS-recall (FreeAnchor, arXiv:1909.02466) asks of each object whether any box, of whatever class, lies
    on it; the rank correlation pairs each box with the best object of its own class.
    """
    kept = postprocess.choose(found)
    iou = pairwise_iou(found.boxes, boxes)  # [N, G]
    own = (iou * (found.labels[:, None] == labels)).amax(dim=1) if len(labels) else iou.new_zeros(len(iou))
    touching = own > 0
    return Look(
        before=_best(iou), after=_best(pairwise_iou(kept.boxes, boxes)),
        scores=found.scores[touching].cpu().numpy(), ious=own[touching].cpu().numpy(),
    )  # fmt: skip


def rank_correlation(a: Float[np.ndarray, "M"], b: Float[np.ndarray, "M"]) -> float:
    """Spearman's: the linear correlation of the ranks, equal values sharing the mean of theirs.

    NaN for fewer than two values, and where all of one side are equal.
    """
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (a, b)]
    norm = math.sqrt(float((ranks[0] ** 2).sum()) * float((ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / norm if norm > 0 else math.nan


def _best(iou: Tensor) -> np.ndarray:
    """[G] of each object the best IoU, 0 where there is no box."""
    best = iou.amax(dim=0) if len(iou) else iou.new_zeros(iou.shape[1])
    return best.cpu().numpy()


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
