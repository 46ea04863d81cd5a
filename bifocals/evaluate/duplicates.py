"""How many detections repeat another one: what an NMS-free detector must not do.

Letters: D detections of an image, G objects of an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bifocals.data import Annotations
from bifocals.structures import Detections

from .boxes import area, intersection
from .packed import pack


def duplicate_rate(
    detections: Mapping[int, Detections],
    annotations: Annotations,
    *,
    score: float = 0.3,
    overlap: float = 0.6,
    match: float = 0.5,
) -> float:
    """Share of the detections above `score` that overlap a better one of their class and find no object of their own.

    Read exactly so, for each image and each class on its own:

    1. Only detections with a score above `score` are looked at. *Better* means a higher score; of equal scores the
       one that comes first.
    2. A detection *overlaps* a better one if their IoU is above `overlap`, whether the better one is right or wrong.
    3. Detections take objects as in COCO's evaluation: best first, each the free object with the greatest IoU of at
       least `match`. Two people who stand close are therefore two objects and no duplicates.
    4. A detection without an object that lies in a crowd region (at least `match` of its area) is left out of numerator
       and denominator: the annotation cannot say what it is. The object-less rest that overlaps counts.

    0 where no detection is above `score`. Errors as in `average_precision`.
    """
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    above = np.flatnonzero(found.scores > score)
    order = above[np.lexsort((-found.scores[above], found.image[above]))]  # lexsort is stable: ties keep their order
    image, labels = found.image[order], found.labels[order]
    boxes = found.boxes[order].astype(np.float64)
    limits = np.searchsorted(image, np.arange(len(annotations.image_ids) + 1))
    crowded = np.zeros(len(annotations.image_ids), dtype=bool)
    of_object = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.offsets))
    crowded[of_object[annotations.crowd]] = True

    repeated, counted = 0, len(order)
    for i in np.flatnonzero(np.diff(limits) > 0):
        mine = slice(limits[i], limits[i + 1])
        same = labels[mine, None] == labels[None, mine]
        overlapping = (np.tril(_iou(boxes[mine], boxes[mine]) > overlap, k=-1) & same).any(axis=1)
        if not overlapping.any() and not crowded[i]:
            continue  # the common case: nothing to match, nothing to leave out
        objects = slice(annotations.offsets[i], annotations.offsets[i + 1])
        crowd = annotations.crowd[objects]
        object_boxes = annotations.boxes[objects].astype(np.float64)
        object_labels = annotations.labels[objects]
        free = ~_takes_object(boxes[mine], labels[mine], object_boxes[~crowd], object_labels[~crowd], match)
        in_crowd = free & _covered(boxes[mine], labels[mine], object_boxes[crowd], object_labels[crowd], match)
        counted -= int(in_crowd.sum())
        repeated += int((overlapping & free & ~in_crowd).sum())
    return repeated / counted if counted else 0.0


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[D G] IoU; 0 for boxes without area."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _takes_object(
    boxes: np.ndarray, labels: np.ndarray, object_boxes: np.ndarray, object_labels: np.ndarray, match: float
) -> np.ndarray:
    """[D] whether a detection takes an object; detections come best first."""
    taken = np.zeros(len(boxes), dtype=bool)
    if len(object_boxes) == 0:
        return taken
    iou = np.where(labels[:, None] == object_labels[None, :], _iou(boxes, object_boxes), -1.0)
    for d in np.flatnonzero(iou.max(axis=1) >= match):
        best = len(object_labels) - 1 - int(iou[d, ::-1].argmax())  # COCO takes the last of equally good objects
        if iou[d, best] >= match:
            taken[d] = True
            iou[:, best] = -1.0
    return taken


def _covered(
    boxes: np.ndarray, labels: np.ndarray, crowd_boxes: np.ndarray, crowd_labels: np.ndarray, match: float
) -> np.ndarray:
    """[D] whether at least `match` of a detection's area lies in one crowd region of its class."""
    own = area(boxes)[:, None]
    inside = np.divide(intersection(boxes, crowd_boxes), own, out=np.zeros((len(boxes), len(crowd_boxes))),
                       where=own > 0)
    return ((inside >= match) & (labels[:, None] == crowd_labels[None, :])).any(axis=1)
