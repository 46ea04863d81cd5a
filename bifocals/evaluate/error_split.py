"""Where precision is lost: areas under precision-recall curves, with one kind of error after another forgiven.

The analysis that COCO's site describes (cocodataset.org, Detection Evaluation, section 5), after Hoiem et al. (ECCV
2012); MAL's Figure 7 shows it for two classes.

Letters: I images, C classes, D detections of a class, K kinds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from bifocals.data import Annotations
from bifocals.structures import Detections, area, pairwise_intersection

from .packed import PackedDetections, pack

KINDS = ("C75", "C50", "Loc", "Oth", "BG", "FN")
LOOSE = 0.1
"""The IoU from which on a detection counts as misplaced, and no longer as background."""

RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class ErrorSplit:
    """Areas of each class and kind, in [0, 1], ascending from kind to kind; NaN for a class without objects.

    C75, C50: AP at IoU .75 and .5. Loc: at .1, so misplaced boxes are right; a second box on an object stays wrong.
    Oth: and those that take an object of another class at .1 do not count; supercategories, which COCO's Sim looks at,
    are not known here. BG: and nothing wrong counts, so it is the recall that is left. FN: 1.
    """

    areas: Float[np.ndarray, "C K"]

    @property
    def mean(self) -> Float[np.ndarray, "K"]:
        """Over the classes with objects; NaN where there is none."""
        real = self.areas[~np.isnan(self.areas).any(axis=1)]
        return real.mean(axis=0) if len(real) else np.full(len(KINDS), np.nan)

    def losses(self, areas: Float[np.ndarray, "K"]) -> dict[str, float]:
        """What each kind of error costs, the differences from area to area.

        localization: Loc - C50. class: Oth - Loc. background: BG - Oth, duplicates with it. missed: FN - BG.
        """
        _, c50, loc, oth, bg, fn = areas.tolist()
        return {"localization": loc - c50, "class": oth - loc, "background": bg - oth, "missed": fn - bg}

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Areas and losses, mean and of each class; NaN becomes None."""

        def row(areas: np.ndarray) -> dict[str, float | None]:
            named = {**dict(zip(KINDS, areas.tolist(), strict=True)), **self.losses(areas)}
            return {name: None if math.isnan(value) else value for name, value in named.items()}

        return {"mean": row(self.mean),
                "per_class": {name: row(areas) for name, areas in zip(classes, self.areas, strict=True)}}

    def lines(self, classes: tuple[str, ...]) -> list[str]:
        """A small table for a terminal: areas, and what localization costs."""
        width = max([len("mean"), *map(len, classes)])
        heads = "".join(f"{kind:>7}" for kind in KINDS[:-1])
        lines = [f"{'error split':<{width + 2}}{heads}   localization (Loc - C50)"]
        for name, areas in (("mean", self.mean), *zip(classes, self.areas, strict=True)):
            values = "".join(f"{_short(value):>7}" for value in areas.tolist()[:-1])
            lines.append(f"  {name:<{width}}{values}   {_short(self.losses(areas)['localization'])}")
        return lines


def error_split(
    detections: Mapping[int, Detections], annotations: Annotations, *, max_detections: int = 100
) -> ErrorSplit:
    """The areas of the detections of every image, keyed by image id, in pixels of the original images.

    Detections take objects as in COCO's evaluation: of an image and a class the best `max_detections`, best first, each
    the free object with the greatest IoU; what takes none and lies in a crowd region of its class counts neither way.
    For Oth the objects of other classes are added as such that count neither way: each takes one wrong detection, and
    their crowd regions any number. Errors as in `average_precision`.
    """
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    # pycocotools sees images by ascending id; detections of equal score in two images keep that order.
    place = np.empty(len(annotations), dtype=np.int64)
    place[np.argsort(annotations.image_ids, kind="stable")] = np.arange(len(place))
    order = np.lexsort((-found.scores, place[found.image], found.labels))
    found = PackedDetections(found.image[order], found.boxes[order], found.labels[order], found.scores[order])
    number = len(annotations.classes)
    areas = np.full((number, len(KINDS)), np.nan)
    limits = np.searchsorted(found.labels, np.arange(number + 1))
    counts = np.bincount(annotations.labels[~annotations.crowd], minlength=number)
    for c in np.flatnonzero(counts):
        areas[c] = _class_areas(found, slice(limits[c], limits[c + 1]), annotations, int(c), max_detections)
    return ErrorSplit(areas)


def _class_areas(
    found: PackedDetections, mine: slice, annotations: Annotations, label: int, most: int
) -> Float[np.ndarray, "K"]:
    scores, parts = found.scores[mine], []
    images = found.image[mine]
    limits = [0, *np.flatnonzero(np.diff(images)) + 1, len(images)]
    for first, end in pairwise(limits):
        if end > first:
            rows = slice(first, min(end, first + most))
            boxes = found.boxes[mine][rows]
            parts.append((scores[rows], *_outcomes(boxes, annotations, int(images[first]), label)))
    number = int((annotations.labels[~annotations.crowd] == label).sum())
    if not parts:
        return np.array([0, 0, 0, 0, 0, 1.0])
    kept, right, counted = (np.concatenate(columns, axis=-1) for columns in zip(*parts, strict=True))
    order = np.argsort(-kept, kind="stable")
    curves = [_curve(right[k][order], counted[k][order], number) for k in range(4)]
    return np.array([*[curve.mean() for curve in curves], (curves[-1] > 0).mean(), 1.0])


def _outcomes(
    boxes: Float[np.ndarray, "D 4"], annotations: Annotations, image: int, label: int
) -> tuple[Bool[np.ndarray, "4 D"], Bool[np.ndarray, "4 D"]]:
    """For C75, C50, Loc and Oth: which detections of one image and class are right, and which count at all."""
    objects = slice(annotations.offsets[image], annotations.offsets[image + 1])
    others, crowd = annotations.labels[objects] != label, annotations.crowd[objects]
    iou = _overlaps(boxes, annotations.boxes[objects].astype(np.float64), crowd)  # [D, G]
    right, counted = np.zeros((4, len(boxes)), dtype=bool), np.ones((4, len(boxes)), dtype=bool)
    own, own_crowd = iou[:, ~others & ~crowd], iou[:, ~others & crowd]
    for k, threshold in enumerate((0.75, 0.5, LOOSE)):
        right[k] = _take(own, threshold)
        counted[k] = right[k] | ~(own_crowd >= threshold).any(axis=1)
    right[3], wrong = right[2], ~right[2] & counted[2]
    confused = np.zeros(len(boxes), dtype=bool)
    left = iou[wrong]
    confused[wrong] = _take(left[:, others & ~crowd], LOOSE) | (left[:, others & crowd] >= LOOSE).any(axis=1)
    counted[3] = counted[2] & ~confused
    return right, counted


def _take(iou: Float[np.ndarray, "D G"], threshold: float) -> Bool[np.ndarray, "D"]:
    """Which detections take an object, best first; of equally good objects COCO takes the last."""
    taken = np.zeros(len(iou), dtype=bool)
    if iou.shape[1] == 0:
        return taken
    free = iou.copy()
    for d in np.flatnonzero(iou.max(axis=1) >= threshold):
        best = free.shape[1] - 1 - int(free[d, ::-1].argmax())
        if free[d, best] >= threshold:
            taken[d] = True
            free[:, best] = -1.0
    return taken


def _curve(right: Bool[np.ndarray, "D"], counted: Bool[np.ndarray, "D"], number: int) -> Float[np.ndarray, "101"]:
    """COCO's precision at each of 101 recalls; detections come best first."""
    hits = right[counted].cumsum()
    if not len(hits):
        return np.zeros(len(RECALL_POINTS))
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / number, RECALL_POINTS, side="left")
    return np.append(envelope, 0.0)[reached]


def _overlaps(
    boxes: Float[np.ndarray, "D 4"], objects: Float[np.ndarray, "G 4"], crowd: Bool[np.ndarray, "G"]
) -> Float[np.ndarray, "D G"]:
    """IoU, and with a crowd region the share of the detection that lies in it; 0 where nothing has an area."""
    a, b = torch.from_numpy(boxes), torch.from_numpy(objects)
    shared, areas = pairwise_intersection(a, b).numpy(), area(a).numpy()[:, None]
    whole = np.where(crowd, areas, areas + area(b).numpy() - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
