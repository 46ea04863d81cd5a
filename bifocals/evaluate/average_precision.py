"""COCO's average precision on packed arrays; the matching and the curves are hotcoco's.

hotcoco (MIT, Rust, numpy its only requirement) was chosen by measurement: `benchmarks/coco_evaluators.py`.
It takes arrays, so neither a JSON file nor a dictionary an object is built.

Letters: I images, N objects, D detections, C classes, T the 10 IoU thresholds, R the 101 recall points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from hotcoco import mask as coco_mask
from jaxtyping import Bool, Float, Int

from bifocals.data import Annotations
from bifocals.structures import Detections

from .boxes import xywh
from .packed import pack

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's 12 numbers and what they are made of.

    A number that does not exist is NaN (pycocotools writes -1): every number of a set without objects, the numbers of
    an area range without objects, and those of a class without objects. Crowd regions are no objects.

    stats: the 12 numbers by their names in `STATS`; "AR100" is the recall at `max_detections`.
    class_ap, class_ap50: of each class, all areas. precision, recall: of each class, all areas, at `max_detections`.
    """

    stats: dict[str, float]
    class_ap: Float[np.ndarray, "C"]
    class_ap50: Float[np.ndarray, "C"]
    precision: Float[np.ndarray, "T R C"]
    recall: Float[np.ndarray, "T C"]

    @property
    def ap(self) -> float:
        """COCO's AP: the mean over IoU .5 to .95 and classes."""
        return self.stats["AP"]

    def to_json(self, classes: tuple[str, ...] | None = None) -> dict[str, Any]:
        """The 12 numbers and the two per class; NaN becomes None. Classes are named where `classes` is given."""
        names = classes if classes is not None else tuple(str(c) for c in range(len(self.class_ap)))
        per_class = {
            name: {"AP": _or_none(ap), "AP50": _or_none(ap50)}
            for name, ap, ap50 in zip(names, self.class_ap.tolist(), self.class_ap50.tolist(), strict=True)
        }
        return {**{name: _or_none(value) for name, value in self.stats.items()}, "per_class": per_class}


def average_precision(
    detections: Mapping[int, Detections], annotations: Annotations, *, max_detections: int = 100
) -> AveragePrecision:
    """COCO AP of the detections of every image, keyed by image id, in pixels of the original images.

    Images without detections count; an image may be absent from `detections`. ValueError for an image id or a label
    that the annotations do not know, and for a box or score that is not finite.
    """
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    # pycocotools sees images by ascending id; detections of equal score in two images keep that order.
    place = np.empty(len(annotations.image_ids), dtype=np.int64)
    place[np.argsort(annotations.image_ids, kind="stable")] = np.arange(len(place))
    return coco_average_precision(
        num_images=len(annotations.image_ids),
        num_classes=len(annotations.classes),
        object_image=np.repeat(place, np.diff(annotations.offsets)),
        object_boxes=annotations.boxes,
        object_labels=annotations.labels,
        object_crowd=annotations.crowd,
        object_area=annotations.area,
        found_image=place[found.image],
        found_boxes=found.boxes,
        found_labels=found.labels,
        found_scores=found.scores,
        max_detections=max_detections,
    )


def coco_average_precision(
    *,
    num_images: int,
    num_classes: int,
    object_image: Int[np.ndarray, "N"],
    object_boxes: Float[np.ndarray, "N 4"],
    object_labels: Int[np.ndarray, "N"],
    object_crowd: Bool[np.ndarray, "N"],
    object_area: Float[np.ndarray, "N"],
    found_image: Int[np.ndarray, "D"],
    found_boxes: Float[np.ndarray, "D 4"],
    found_labels: Int[np.ndarray, "D"],
    found_scores: Float[np.ndarray, "D"],
    max_detections: int = 100,
) -> AveragePrecision:
    """COCO AP of flat arrays: images are 0..I-1, labels 0..C-1, boxes xyxy pixels, areas square pixels.

    An object's area is the given one (COCO's area of the mask), a detection's the one of its box. Detections of an
    image and a class beyond the best `max_detections` do not count. Everything is computed in float64.
    """
    evaluation = coco_evaluation(num_images, num_classes, object_image, object_boxes, object_labels, object_crowd,
                                 object_area, found_image, found_boxes, found_labels, found_scores)
    return average_precision_of(evaluation, num_classes, max_detections)


def average_precision_of(evaluation: COCOeval, num_classes: int, max_detections: int = 100) -> AveragePrecision:
    """Runs an evaluation and reads its numbers."""
    if max_detections != 100:
        evaluation.params.max_dets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    curves = evaluation.eval
    assert curves is not None
    shape = (10, 101, num_classes, len(AREAS), 3)
    precision = np.asarray(curves["precision"], dtype=np.float64).reshape(shape)
    recall = np.asarray(curves["recall"], dtype=np.float64).reshape(shape[:1] + shape[2:])
    precision, recall = np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)
    found = [_mean(precision[..., 0, 2]), _mean(precision[0, ..., 0, 2]), _mean(precision[5, ..., 0, 2])]
    found += [_mean(precision[..., size, 2]) for size in (1, 2, 3)]
    found += [_mean(recall[..., 0, number]) for number in (0, 1, 2)]
    found += [_mean(recall[..., size, 2]) for size in (1, 2, 3)]
    of_class = [_mean(precision[:, :, c, 0, 2]) for c in range(num_classes)]
    of_class50 = [_mean(precision[0, :, c, 0, 2]) for c in range(num_classes)]
    return AveragePrecision(
        stats=dict(zip(STATS, found, strict=True)),
        class_ap=np.array(of_class, dtype=np.float64),
        class_ap50=np.array(of_class50, dtype=np.float64),
        precision=precision[..., 0, 2],
        recall=recall[..., 0, 2],
    )


def coco_evaluation(
    num_images: int,
    num_classes: int,
    object_image: Int[np.ndarray, "N"],
    object_boxes: Float[np.ndarray, "N 4"],
    object_labels: Int[np.ndarray, "N"],
    object_crowd: Bool[np.ndarray, "N"],
    object_area: Float[np.ndarray, "N"],
    found_image: Int[np.ndarray, "D"],
    found_boxes: Float[np.ndarray, "D 4"],
    found_labels: Int[np.ndarray, "D"],
    found_scores: Float[np.ndarray, "D"],
    object_masks: Sequence[dict[str, Any]] | None = None,
    found_masks: Sequence[dict[str, Any]] | None = None,
) -> COCOeval:
    """hotcoco's evaluation of flat arrays, as `coco_average_precision` takes them, before it has run.

    object_masks, found_masks: run lengths of each, {size, counts}, to compare masks in place of boxes.
    """
    truth = COCO.from_arrays(
        [{"id": i, "height": 0, "width": 0, "file_name": ""} for i in range(num_images)],
        [{"id": c, "name": str(c)} for c in range(num_classes)],
        object_image, object_labels, xywh(object_boxes),
        ids=np.arange(1, len(object_image) + 1), area=object_area.astype(np.float64), iscrowd=object_crowd,
        segmentation=None if object_masks is None else list(object_masks),
    )
    results = np.column_stack([found_image, xywh(found_boxes), found_scores, found_labels]).astype(np.float64)
    if found_masks is None:
        return COCOeval(truth, truth.load_res(results), "bbox")
    found = truth.load_res(results, segmentation=list(found_masks))
    if found_masks:  # else a detection's area would be the one of its box
        areas = coco_mask.area(list(found_masks))
        found.update_anns(ids=np.arange(1, len(found_masks) + 1), area=areas.astype(np.float64))
    return COCOeval(truth, found, "segm")


def _mean(values: np.ndarray) -> float:
    """The mean of the numbers that exist, NaN where none does (`nanmean` would warn)."""
    real = values[~np.isnan(values)]
    return float(real.mean()) if len(real) else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
