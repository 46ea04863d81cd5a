"""The detections of many images as flat arrays.

Letters: D detections of all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from bifocals.structures import Detections


@dataclass(frozen=True, eq=False)
class PackedDetections:
    """Detection d lies in image number `image[d]` of the annotations; inside an image the order is kept."""

    image: Int[np.ndarray, "D"]
    boxes: Float[np.ndarray, "D 4"]
    labels: Int[np.ndarray, "D"]
    scores: Float[np.ndarray, "D"]


def pack(detections: Mapping[int, Detections], image_ids: np.ndarray, num_classes: int) -> PackedDetections:
    """Flat arrays of the detections of each image id, images in the order of `image_ids`.

    ValueError for an image id that is not in `image_ids`, a label outside 0..num_classes-1, and a box or score that is
    not finite. Numbers become float64, so that boxes given as such (COCO results read from a file) stay exact: 1e-7
    pixels decide whether an IoU reaches a threshold.
    """
    number = {int(image_id): i for i, image_id in enumerate(image_ids)}
    unknown = [image_id for image_id in detections if int(image_id) not in number]
    if unknown:
        raise ValueError(f"The detections expected ids of the {len(number)} annotated images, got {unknown[:3]} among "
                         f"{len(detections)} images; the first annotated ids are {list(number)[:3]}.")
    found = sorted(((number[int(image_id)], of_image) for image_id, of_image in detections.items()),
                   key=lambda pair: pair[0])
    counts = [len(of_image) for _, of_image in found]
    image = np.repeat(np.array([i for i, _ in found], dtype=np.int64), counts)
    empty = Detections.empty()
    parts = [of_image for _, of_image in found] or [empty]
    boxes = torch.cat([d.boxes for d in parts]).double().cpu().numpy()
    labels = torch.cat([d.labels for d in parts]).cpu().numpy()
    scores = torch.cat([d.scores for d in parts]).double().cpu().numpy()
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"The detections of image id {int(image_ids[image[first]])} expected finite boxes and scores, "
                         f"got box {boxes[first].tolist()} with score {scores[first]}; "
                         f"{int((~finite).sum())} of {len(finite)} detections are not finite.")
    wrong = (labels < 0) | (labels >= num_classes)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"The detections of image id {int(image_ids[image[first]])} expected labels below the number "
                         f"of classes, got {int(labels[first])}; the annotations have {num_classes} classes.")
    return PackedDetections(image, boxes, labels, scores)
