"""The numbers of the CrowdHuman benchmark (arXiv:1805.00123): AP50, log-average miss rate, recall, Jaccard index.

The arithmetic is the one that DATE, OneNet and DeFCN report with. It differs from COCO's: objects are matched once at
one IoU, ignored regions take any number of detections, and the area under the curve is not interpolated.

Letters: I images, D detections, G objects that count, R the reference points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float

from bifocals.data import Annotations
from bifocals.structures import Detections

from .crowd_overlaps import CrowdOverlaps, crowd_overlaps
from .jaccard import jaccard_index
from .packed import pack

FALSE_POSITIVES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.000)
"""False positives an image at which the miss rate is read: nine points from .01 to 1, rounded as the benchmark has
them."""


@dataclass(frozen=True)
class CrowdMetrics:
    """The four numbers of the benchmark; one that does not exist is NaN.

    ap50: area under the curve of precision over recall. mmr: log-average miss rate, MR^-2, the lower the better.
    recall: share of the objects that are found by all detections together. jaccard: see `jaccard_index`.
    """

    ap50: float
    mmr: float
    recall: float
    jaccard: float

    def to_json(self) -> dict[str, float | None]:
        """The numbers by name; NaN becomes None."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class RankedDetections:
    """The detections of one class in all images, best first, and whether each found an object; those that fell to an
    ignored region are left out."""

    scores: Float[np.ndarray, "D"]
    correct: Bool[np.ndarray, "D"]
    num_objects: int
    num_images: int


def crowd_metrics(
    detections: Mapping[int, Detections], annotations: Annotations, *, match: float = 0.5
) -> CrowdMetrics:
    """The numbers of the detections of every image, keyed by image id, in pixels of the original images.

    Images without detections count; an image may be absent from `detections`. The benchmark takes the best 500
    detections of an image with a score above .01; what is given here is what counts. It has one class: of more classes
    each is computed for itself, and the numbers are means over the classes that have objects. A class whose number
    does not exist is left out of its mean; all four are NaN for a set without objects.

    match: the IoU above which an object is found, .5 in the benchmark. See `rank_detections` for the matching.

    ValueError for an image id or a label that the annotations do not know, for a box or score that is not finite, for
    a `match` outside (0, 1), and for images of unknown size, which boxes could not be cut to.
    """
    of_classes = [
        CrowdMetrics(
            ap50=trapezoid_precision(ranked),
            mmr=log_average_miss_rate(ranked),
            recall=float(ranked.correct.sum() / ranked.num_objects),
            jaccard=jaccard_index(overlaps),
        )
        for overlaps in overlaps_of_classes(detections, annotations, match=match)
        if (ranked := rank_detections(overlaps)).num_objects
    ]
    return CrowdMetrics(*(_mean([getattr(one, name) for one in of_classes])
                          for name in ("ap50", "mmr", "recall", "jaccard")))


def overlaps_of_classes(
    detections: Mapping[int, Detections], annotations: Annotations, *, match: float = 0.5
) -> list[CrowdOverlaps]:
    """What detections and objects of each class have to do with each other; errors as in `crowd_metrics`."""
    if not 0 < match < 1:
        raise ValueError(f"crowd_metrics expected match in (0, 1), got {match}; it is an IoU.")
    unknown = np.flatnonzero((annotations.sizes_hw <= 0).any(axis=1))
    if len(unknown):
        raise ValueError(f"crowd_metrics expected the size of each image, which boxes are cut to, got none for "
                         f"{annotations.files[int(unknown[0])]}; {len(unknown)} of {len(annotations)} have none.")
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    return [crowd_overlaps(found, annotations, label, match) for label in range(len(annotations.classes))]


def rank_detections(overlaps: CrowdOverlaps) -> RankedDetections:
    """Matches as Caltech's pedestrian benchmark does, image by image and best score first.

    1. A detection takes the free object with the greatest IoU, if that is above `match` (of equal IoU the first).
    2. One that gets no object and lies in an ignored region with more than `match` of its own area is left out: it is
       neither right nor wrong, and the region stays for others.
    3. Any other is wrong.

    Boxes are cut to the image before; of equal scores the first image and the first detection come first.
    """
    num_detections = len(overlaps.scores)
    correct = np.zeros(num_detections, dtype=bool)
    taken = bytearray(overlaps.num_objects)
    # Pairs are few, and sorted: a detection's are together, its best object first.
    strict = overlaps.strict
    last = -1
    for row, column in zip(overlaps.rows[strict].tolist(), overlaps.columns[strict].tolist(), strict=True):
        if row != last and not taken[column]:
            correct[row], taken[column], last = True, 1, row
    kept = correct | ~overlaps.detection_ignored
    order = np.flatnonzero(kept)
    order = order[np.argsort(-overlaps.scores[order], kind="stable")]
    return RankedDetections(overlaps.scores[order], correct[order], overlaps.num_objects, overlaps.num_images)


def trapezoid_precision(ranked: RankedDetections) -> float:
    """The area under precision over recall, by the trapezoids between one detection and the next.

    Nothing is interpolated, and there is no area before the first detection. NaN without objects.
    """
    if ranked.num_objects == 0:
        return math.nan
    right = np.cumsum(ranked.correct)
    recall, precision = right / ranked.num_objects, right / np.arange(1, len(right) + 1)
    return float(np.sum((precision[1:] + precision[:-1]) / 2 * np.diff(recall)))


def log_average_miss_rate(ranked: RankedDetections, references: Sequence[float] = FALSE_POSITIVES) -> float:
    """The geometric mean of the miss rates at the reference points, MR^-2 for the default ones.

    The miss rate of a point is the one of the first detection that brings the false positives an image to the point or
    beyond it, and that of the last detection where they never get there. 0 where no object is missed at one of the
    points, 1 where nothing was detected, NaN without objects.
    """
    if ranked.num_objects == 0:
        return math.nan
    if len(ranked.correct) == 0:
        return 1.0
    missed = 1 - np.cumsum(ranked.correct) / ranked.num_objects
    per_image = np.cumsum(~ranked.correct) / ranked.num_images
    at = np.searchsorted(per_image, np.asarray(references), side="left").clip(max=len(missed) - 1)  # [R]
    if (missed[at] <= 0).any():
        return 0.0
    return float(np.exp(np.log(missed[at]).mean()))


def _mean(values: Sequence[float]) -> float:
    """The mean of the numbers that exist, NaN where none does."""
    real = [value for value in values if not math.isnan(value)]
    return float(np.mean(real)) if real else math.nan
