"""Which detections take an object, found once, and COCO's AP from it for any weights of the images.

Letters: I images, J images at once, D detections and N objects (of a class or of all), M detections that take an
object, K detections that count neither way, R rows of weights, T the 10 IoU thresholds.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from bifocals.data import Annotations
from bifocals.structures import Detections

from .average_precision import coco_evaluation
from .packed import pack

RECALL_POINTS = np.linspace(0, 1, 101)
THRESHOLDS = 10
_IMAGES_AT_ONCE = 250  # hotcoco gives matches as Python lists, and those of a large set would not fit
_WEIGHTS_AT_ONCE = 1 << 19  # of the detections of a class: what stays in the cache is summed faster


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class, best first.

    image: of each detection. right: those that take an object, at each of the 10 IoU thresholds, as numbers of
    detections. ignored: the same of those that count neither way, because they lie in a crowd region.
    objects: the image of each object that is no crowd region.
    """

    image: Int[np.ndarray, "D"]
    right: tuple[Int[np.ndarray, "M"], ...]
    ignored: tuple[Int[np.ndarray, "K"], ...]
    objects: Int[np.ndarray, "N"]

    def ap(self, weights: Int[np.ndarray, "I R"]) -> Float[np.ndarray, "R"]:
        """COCO's AP of the class for each column of weights, NaN where no object has one."""
        number = weights[self.objects].sum(axis=0, dtype=np.int32)
        seen = weights[self.image].cumsum(axis=0, dtype=np.int32)  # [D R] this detection and the better ones
        total = np.zeros(weights.shape[1])
        for right, ignored in zip(self.right, self.ignored, strict=True):
            if not len(right):
                continue
            # Recall grows at detections that are right, and precision is greatest there: the others need no look.
            true = weights[self.image[right]].cumsum(axis=0, dtype=np.int32)  # [M R]
            counted = seen[right]
            if len(ignored):
                left_out = weights[self.image[ignored]].cumsum(axis=0, dtype=np.int32)
                before = np.searchsorted(ignored, right)  # how many of the ignored are better
                counted[before > 0] -= left_out[before[before > 0] - 1]
            precision = true / (counted + np.spacing(1))
            envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
            reached = np.searchsorted(RECALL_POINTS, true / np.maximum(number, 1), side="right")
            total += np.einsum("mr,mr->r", envelope, np.diff(reached, axis=0, prepend=0))
        return np.where(number > 0, total / (THRESHOLDS * len(RECALL_POINTS)), np.nan)


@dataclass(frozen=True, eq=False)
class Matches:
    """The matches of every class: all that AP has to know, whatever the weights of the images."""

    num_images: int
    classes: tuple[ClassMatches, ...]

    @property
    def images_with_objects(self) -> int:
        """How many images hold an object that is no crowd region."""
        return len(np.unique(np.concatenate([c.objects for c in self.classes]))) if self.classes else 0

    def ap(self, weights: Int[np.ndarray, "R I"]) -> Float[np.ndarray, "R"]:
        """COCO's AP with each image counted as often as its weight says; NaN where no image with objects is left.

        With weights of 1 it is `average_precision`. With others it is that of a set which holds an image so many times,
        one copy after the other, except that equal scores inside one image and class are not taken in turns. A class
        without objects is left out of the mean, as COCO does. ValueError for weights of another number of images.
        """
        if weights.ndim != 2 or weights.shape[1] != self.num_images:
            raise ValueError(f"Matches.ap expected weights of shape [R, {self.num_images}], got {list(weights.shape)}; "
                             "a row has a weight for each image.")
        of_image = weights.T.astype(np.int32, order="C")
        total, counted = np.zeros(len(weights)), np.zeros(len(weights), dtype=np.int64)
        for of_class in self.classes:
            if not len(of_class.objects):
                continue
            step = max(16, _WEIGHTS_AT_ONCE // max(len(of_class.image), len(of_class.objects)))
            for start in range(0, len(weights), step):
                part = slice(start, start + step)
                ap = of_class.ap(of_image[:, part])
                total[part] += np.nan_to_num(ap)
                counted[part] += ~np.isnan(ap)
        return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def match(detections: Mapping[int, Detections], annotations: Annotations, *, max_detections: int = 100) -> Matches:
    """Finds which detections of every image, keyed by image id, take an object, just as `average_precision` does.

    Of an image and a class the best `max_detections` are looked at. Errors as in `average_precision`.
    """
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    by_id = np.argsort(annotations.image_ids, kind="stable")  # equal scores in two images go by ascending id
    rows = [_Rows.of_pairs([], by_id)]
    for start in range(0, len(by_id), _IMAGES_AT_ONCE):
        images = by_id[start : start + _IMAGES_AT_ONCE]
        place = np.full(len(by_id), -1)
        place[images] = np.arange(len(images))
        theirs, part = place[found.image] >= 0, annotations.subset(images.tolist())
        evaluation = coco_evaluation(
            len(part), len(part.classes), part.image_index(), part.boxes, part.labels, part.crowd, part.area,
            place[found.image[theirs]], found.boxes[theirs], found.labels[theirs], found.scores[theirs],
        )
        evaluation.params.max_dets = [max_detections]
        evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        with _no_collection():
            rows.append(_Rows.of_pairs([pair for pair in evaluation.eval_imgs if pair is not None], images))
    return Matches(len(by_id), _Rows.joined(rows).by_class(len(annotations.classes)))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Detections and objects of some images, by class and image, as flat arrays."""

    image: Int[np.ndarray, "D"]
    label: Int[np.ndarray, "D"]
    score: Float[np.ndarray, "D"]
    right: Bool[np.ndarray, "T D"]
    ignored: Bool[np.ndarray, "T D"]
    object_image: Int[np.ndarray, "N"]
    object_label: Int[np.ndarray, "N"]

    @classmethod
    def of_pairs(cls, pairs: list[dict[str, Any]], images: Int[np.ndarray, "J"]) -> _Rows:
        """pairs: hotcoco's record of an image and a class each. images: what its image numbers mean."""
        image = images[np.array([pair["image_id"] for pair in pairs], dtype=np.int64)]
        label = np.array([pair["category_id"] for pair in pairs], dtype=np.int64)
        found = np.array([len(pair["dtScores"]) for pair in pairs], dtype=np.int64)
        real = np.array([len(pair["gtIgnore"]) - sum(pair["gtIgnore"]) for pair in pairs], dtype=np.int64)
        score = np.array([score for pair in pairs for score in pair["dtScores"]], dtype=np.float64)
        matched, ignored = (
            np.array([[flag for pair in pairs for flag in pair[name][t]] for t in range(THRESHOLDS)], dtype=bool)
            for name in ("dtMatched", "dtIgnore")
        )
        return cls(np.repeat(image, found), np.repeat(label, found), score, matched & ~ignored, ignored,
                   np.repeat(image, real), np.repeat(label, real))

    @classmethod
    def joined(cls, parts: list[_Rows]) -> _Rows:
        return cls(*[np.concatenate([getattr(part, name) for part in parts], axis=-1)
                     for name in cls.__dataclass_fields__])

    def by_class(self, num_classes: int) -> tuple[ClassMatches, ...]:
        order = np.lexsort((-self.score, self.label))  # stable: equal scores stay in the order of the images
        limits = np.searchsorted(self.label[order], np.arange(num_classes + 1))
        classes = []
        for c, (first, end) in enumerate(pairwise(limits)):
            mine = order[first:end]
            right, ignored = (tuple(np.flatnonzero(row) for row in flags[:, mine])
                              for flags in (self.right, self.ignored))
            classes.append(ClassMatches(self.image[mine], right, ignored, self.object_image[self.object_label == c]))
        return tuple(classes)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of short lists make Python look for cycles again and again: five times as slow as without."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
