"""COCO's average precision of masks: as that of boxes, with the IoU of pixels.

Letters: D detections of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from hotcoco import mask as coco_mask

from bifocals.data import Annotations, encode_masks
from bifocals.predict import paste_masks
from bifocals.structures import Detections, Target

from .average_precision import AveragePrecision, average_precision_of, coco_evaluation
from .packed import pack


def mask_average_precision(
    detections: Mapping[int, Detections],
    annotations: Annotations,
    *,
    masks: Mapping[int, Sequence[str]] | None = None,
    max_detections: int = 100,
) -> AveragePrecision:
    """COCO AP of the masks of the detections of every image, keyed by image id.

    masks: of each detection of each image, compressed run lengths in the pixels of the original image; where None, the
    masks of the detections are pasted into it (`pasted_masks`). An object's area is the one of the annotations, a
    detection's the one of its mask. Otherwise as `average_precision`. ValueError for annotations and detections
    without masks.
    """
    if annotations.segmentations is None:
        raise ValueError(f"mask_average_precision expected annotations with segmentations, got {len(annotations)} "
                         "images without; they are read where masks are asked for (open_split, load_coco).")
    number = {int(image_id): i for i, image_id in enumerate(annotations.image_ids)}
    sizes = [(int(height), int(width)) for height, width in annotations.sizes_hw]
    found = pack(detections, annotations.image_ids, len(annotations.classes))
    texts: list[str] = []
    for image_id in sorted(detections, key=lambda image_id: number[int(image_id)]):
        of_image = detections[image_id]
        drawn = pasted_masks(of_image, sizes[number[int(image_id)]]) if masks is None else masks.get(image_id, ())
        if len(drawn) != len(of_image):
            raise ValueError(f"mask_average_precision expected a mask of each of the {len(of_image)} detections of "
                             f"image id {image_id}, got {len(drawn)}.")
        texts += drawn
    image = annotations.image_index()
    found_masks = [{"size": sizes[i], "counts": text} for i, text in zip(found.image, texts, strict=True)]
    place = np.empty(len(annotations.image_ids), dtype=np.int64)
    place[np.argsort(annotations.image_ids, kind="stable")] = np.arange(len(place))
    nothing = {size: coco_mask.frPyObjects({"size": size, "counts": [size[0] * size[1]]}, *size) for size in set(sizes)}
    evaluation = coco_evaluation(
        len(annotations), len(annotations.classes), place[image], annotations.boxes, annotations.labels,
        annotations.crowd, annotations.area, place[found.image], found.boxes, found.labels, found.scores,
        object_masks=[{"size": sizes[i], "counts": text} if text else nothing[sizes[i]]
                      for i, text in zip(image, annotations.segmentations, strict=True)],
        found_masks=found_masks,
    )
    return average_precision_of(evaluation, len(annotations.classes), max_detections)


def pasted_masks(detections: Detections, size_hw: tuple[int, int]) -> list[str]:
    """The masks of an image's detections in its pixels, as compressed run lengths. ValueError without masks."""
    if not len(detections):
        return []
    if detections.masks is None:
        raise ValueError(f"pasted_masks expected detections with masks, got {len(detections)} without.")
    return encode_masks(paste_masks(detections.masks, detections.boxes, size_hw).cpu())


def masks_of(detections: Sequence[Detections], targets: Sequence[Target]) -> dict[int, list[str]]:
    """`pasted_masks` of each image id of a batch, in pixels of the original images; empty for a network without masks.

    Floats of a whole set would not fit into memory, its run lengths do.
    """
    pairs = zip(detections, targets, strict=True)
    return {t.image_id: pasted_masks(d, t.original_hw) for d, t in pairs if d.masks is not None}


def bare(detections: Detections) -> Detections:
    """The same objects without their masks."""
    return detections if detections.masks is None else replace(detections, masks=None)
