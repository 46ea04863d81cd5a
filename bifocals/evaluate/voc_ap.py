"""Pascal VOC's average precision: one IoU, difficult objects left out, the mean by 11 points or by the area.

Letters: C classes, D detections of a class, N objects of a class, I images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from bifocals.data import Annotations
from bifocals.structures import Detections

from .boxes import area, intersection
from .packed import PackedDetections, pack

RECALLS = {"exact": np.arange(11) / 10, "arange": np.arange(0, 1.05, 0.1)}


@dataclass(frozen=True, eq=False)
class VOCMetrics:
    """Average precision as Pascal VOC reads it, of each class; NaN for a class without objects that count.

    by_points: mean over the recalls 0, .1 ... 1 of the best precision there or beyond, the rule of VOC 2007.
    by_area: area under that best precision, the rule from VOC 2010 on. The two differ by a point or two: say which.
    num_objects: those that count. num_detections: all. match: the IoU that finds an object.
    """

    by_points: Float[np.ndarray, "C"]
    by_area: Float[np.ndarray, "C"]
    num_objects: Int[np.ndarray, "C"]
    num_detections: Int[np.ndarray, "C"]
    match: float

    @property
    def ap_by_points(self) -> float:
        """Mean over the classes that have objects."""
        return _mean(self.by_points)

    @property
    def ap_by_area(self) -> float:
        """Mean over the classes that have objects."""
        return _mean(self.by_area)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The two means and the numbers of each class; NaN becomes None."""
        rows = zip(classes, self.by_points.tolist(), self.by_area.tolist(), self.num_objects.tolist(), strict=True)
        return {
            "match": self.match,
            "11point": _or_none(self.ap_by_points),
            "area": _or_none(self.ap_by_area),
            "per_class": {name: {"11point": _or_none(points), "area": _or_none(whole), "objects": objects}
                          for name, points, whole, objects in rows},
        }

    def summary(self, classes: tuple[str, ...]) -> str:
        """A small table for a terminal."""
        name = f"VOC AP, IoU {self.match:g}"
        width = max(len(name), *(2 + len(c) for c in classes)) if classes else len(name)
        lines = [f"{name:<{width}}{'11-point':>10}{'area':>10}{'objects':>10}",
                 _row("all", width, self.ap_by_points, self.ap_by_area, int(self.num_objects.sum()))]
        rows = zip(classes, self.by_points.tolist(), self.by_area.tolist(), self.num_objects.tolist(), strict=True)
        return "\n".join(lines + [_row(f"  {c}", width, *values) for c, *values in rows])


def voc_metrics(
    detections: Mapping[int, Detections], annotations: Annotations, *, match: float = 0.5, plus_one: bool = False,
    points: Literal["exact", "arange"] = "exact",
) -> VOCMetrics:
    """The numbers of the detections of every image, keyed by image id, in pixels of the original images.

    A detection looks at the object of its class and image that it overlaps most, of equal IoU at one that counts. With
    an IoU of `match` or more it is right if no better detection has that object, else wrong; where the object is
    difficult it is neither, however many there are. Equal scores go by the order of images and detections. Crowd
    regions are as difficult objects: neither is in the recall.

    plus_one: the pixel coordinates of old tools, where a box from 1 to 1 is a pixel wide. Annotations read with
    `one_based` have true edges, and need it not. points: the 11 recalls as tenths, or as most tools make them, whose
    .3, .6 and .7 are a bit too large, so that a recall of just that is not there yet: up to .02 of a class.

    ValueError for an image id or a label that the annotations do not know, for a box or score that is not finite, and
    for a `match` outside (0, 1].
    """
    if not 0 < match <= 1:
        raise ValueError(f"voc_metrics expected match in (0, 1], got {match}; it is an IoU.")
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    left_out = annotations.difficult | annotations.crowd
    image = annotations.image_index()
    numbers = []
    for label in range(len(annotations.classes)):
        # Those that count first, so that they win where two objects are equally near.
        objects = np.flatnonzero(annotations.labels == label)
        objects = objects[np.lexsort((left_out[objects], image[objects]))]
        mine = np.flatnonzero(found.labels == label)
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        nearest = _nearest(found, mine, annotations.boxes[objects], image[objects], match, float(plus_one))
        right, wrong = _judge(nearest, left_out[objects])
        total = int((~left_out[objects]).sum())
        numbers.append((*_average(right, wrong, total, RECALLS[points]), total, len(mine)))
    columns = np.array(numbers, dtype=np.float64).reshape(-1, 4).T
    return VOCMetrics(columns[0], columns[1], columns[2].astype(np.int64), columns[3].astype(np.int64), match)


def _nearest(
    found: PackedDetections, rows: Int[np.ndarray, "D"], boxes: Float[np.ndarray, "N 4"], image: Int[np.ndarray, "N"],
    match: float, plus: float,
) -> Int[np.ndarray, "D"]:
    """The object that each of the detections `rows` overlaps most, -1 where that is less than `match`."""
    nearest = np.full(len(rows), -1)
    order = np.argsort(found.image[rows], kind="stable")
    starts = np.searchsorted(found.image[rows][order], np.unique(image), side="left")
    stops = np.searchsorted(found.image[rows][order], np.unique(image), side="right")
    for number, start, stop in zip(np.unique(image), starts, stops, strict=True):
        if start == stop:
            continue
        there, places = np.flatnonzero(image == number), order[start:stop]
        ours, theirs = found.boxes[rows[places]], boxes[there]
        ours, theirs = (np.concatenate([b[:, :2], b[:, 2:] + plus], axis=1) for b in (ours, theirs))
        shared = intersection(ours, theirs)
        union = area(ours)[:, None] + area(theirs)[None] - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        best = iou.argmax(axis=1)
        near = iou[np.arange(len(best)), best] >= match
        nearest[places[near]] = there[best[near]]
    return nearest


def _judge(
    nearest: Int[np.ndarray, "D"], left_out: Bool[np.ndarray, "N"]
) -> tuple[Bool[np.ndarray, "D"], Bool[np.ndarray, "D"]]:
    """Which detections, best first, are right and which are wrong; those at an object left out are neither."""
    neither = np.zeros(len(nearest), dtype=bool)
    neither[nearest >= 0] = left_out[nearest[nearest >= 0]]
    right = np.zeros(len(nearest), dtype=bool)
    _, first = np.unique(nearest, return_index=True)
    right[first] = True
    right &= (nearest >= 0) & ~neither
    return right, ~right & ~neither


def _average(
    right: Bool[np.ndarray, "D"], wrong: Bool[np.ndarray, "D"], total: int, recalls: Float[np.ndarray, "11"]
) -> tuple[float, float]:
    """AP by 11 points and by area; NaN without objects."""
    if total == 0:
        return math.nan, math.nan
    true, false = np.cumsum(right), np.cumsum(wrong)
    precision = true / np.maximum(true + false, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or beyond
    reached = [np.flatnonzero(true / total >= recall) for recall in recalls]
    points = sum(float(best[at[0]]) for at in reached if len(at)) / len(recalls)
    return points, float((best * np.diff(true, prepend=0)).sum() / total)


def _mean(values: Float[np.ndarray, "C"]) -> float:
    real = values[~np.isnan(values)]
    return float(real.mean()) if len(real) else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(name: str, width: int, points: float, whole: float, objects: int) -> str:
    values = "".join(f"{'-' if math.isnan(value) else f'{value:.4f}':>10}" for value in (points, whole))
    return f"{name:<{width}}{values}{objects:>10}"
