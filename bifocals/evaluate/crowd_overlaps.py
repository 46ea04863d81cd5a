"""Which detections of a class overlap which objects, in all images at once; what CrowdHuman's numbers are made from.

Letters: I images, D detections, G objects that count, E pairs of a detection and an object that overlap enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from bifocals.data import Annotations

from .boxes import area, intersection
from .packed import PackedDetections

_EPS = 1e-6  # square pixels, as the benchmark adds them to areas


@dataclass(frozen=True, eq=False)
class CrowdOverlaps:
    """Detections and objects of one class in all images, and the pairs whose IoU is at least `match`.

    Detections are sorted by image, then best score first; of equal scores the first one comes first. Objects are
    sorted by image; ignored regions are not among them.

    rows, columns: detection and object of each pair; sorted by detection, then greatest IoU first, then by object.
    strict: whether the pair's IoU is above `match`, which AP asks for; the Jaccard index takes all pairs.
    given: the detections in the order they were given in: sorted by image, and inside an image as they came.
    detection_ignored, object_ignored: more than `match` of its area lies in one ignored region of its image.
    """

    scores: Float[np.ndarray, "D"]
    given: Int[np.ndarray, "D"]
    detection_image: Int[np.ndarray, "D"]
    detection_ignored: Bool[np.ndarray, "D"]
    object_image: Int[np.ndarray, "G"]
    object_ignored: Bool[np.ndarray, "G"]
    rows: Int[np.ndarray, "E"]
    columns: Int[np.ndarray, "E"]
    strict: Bool[np.ndarray, "E"]
    num_images: int

    @property
    def num_objects(self) -> int:
        return len(self.object_image)


def crowd_overlaps(
    found: PackedDetections, annotations: Annotations, label: int, match: float
) -> CrowdOverlaps:
    """Cuts all boxes of the class `label` to their images and finds the pairs. Every image has a known size."""
    num_images = len(annotations)
    mine = np.flatnonzero(found.labels == label)
    mine = mine[np.lexsort((-found.scores[mine], found.image[mine]))]  # lexsort is stable
    image = found.image[mine]
    boxes = cut_to_images(found.boxes[mine], annotations.sizes_hw[image])

    object_image = annotations.image_index()
    of_class = annotations.labels == label
    counting, ignored = np.flatnonzero(of_class & ~annotations.crowd), np.flatnonzero(of_class & annotations.crowd)
    objects = cut_to_images(annotations.boxes[counting], annotations.sizes_hw[object_image[counting]])
    regions = cut_to_images(annotations.boxes[ignored], annotations.sizes_hw[object_image[ignored]])

    numbers = np.arange(num_images + 1)
    from_detection = np.searchsorted(image, numbers)
    from_object = np.searchsorted(object_image[counting], numbers)
    from_region = np.searchsorted(object_image[ignored], numbers)
    detection_ignored, object_ignored = np.zeros(len(mine), dtype=bool), np.zeros(len(counting), dtype=bool)
    rows, columns, strict = [], [], []
    for i in np.flatnonzero((np.diff(from_detection) > 0) | (np.diff(from_region) > 0)):
        d = slice(from_detection[i], from_detection[i + 1])
        g = slice(from_object[i], from_object[i + 1])
        r = slice(from_region[i], from_region[i + 1])
        if r.start < r.stop:
            detection_ignored[d] = _covered(boxes[d], regions[r], match)
            object_ignored[g] = _covered(objects[g], regions[r], match)
        inner = intersection(boxes[d], objects[g])  # [D G] of this image
        union = area(boxes[d])[:, None] + area(objects[g]) - inner
        row, column = np.nonzero(inner >= match * np.maximum(union, _EPS))
        iou = inner[row, column] / (union[row, column] + _EPS)
        order = np.lexsort((column, -iou, row))
        rows.append(row[order] + d.start)
        columns.append(column[order] + g.start)
        strict.append(iou[order] > match)
    none = np.zeros(0, dtype=np.int64)
    return CrowdOverlaps(
        scores=found.scores[mine],
        given=np.argsort(mine, kind="stable"),
        detection_image=image,
        detection_ignored=detection_ignored,
        object_image=object_image[counting],
        object_ignored=object_ignored,
        rows=np.concatenate([none, *rows]),
        columns=np.concatenate([none, *columns]),
        strict=np.concatenate([none.astype(bool), *strict]),
        num_images=num_images,
    )


def cut_to_images(boxes: Float[np.ndarray, "N 4"], sizes_hw: Int[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 4"]:
    """Boxes cut as the benchmark does: x2 and y2 to [0, W] and [0, H], x1 and y1 to [0, W - 1] and [0, H - 1].

    What lies right of the image or below it so keeps a pixel of width or height.
    """
    limit = sizes_hw[:, ::-1].astype(np.float64)  # [N, 2] width, height
    low = np.clip(boxes[:, :2], 0.0, limit - 1)
    high = np.clip(boxes[:, 2:], 0.0, limit)
    return np.concatenate([low, high], axis=1)


def _covered(boxes: np.ndarray, regions: np.ndarray, match: float) -> np.ndarray:
    """Whether more than `match` of each box's own area lies in one of the regions."""
    shares = intersection(boxes, regions) / (area(boxes)[:, None] + _EPS)
    return np.asarray((shares > match).any(axis=1))

