"""What NMS costs before any detector is trained: the recall of perfect detections behind it.

Letters: G objects of an image that count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import batched_nms

from bifocals.data import Annotations
from bifocals.structures import pairwise_iou

from .crowd_overlaps import cut_to_images


@dataclass(frozen=True)
class NMSRecall:
    """What is left of a set's objects behind NMS at one threshold.

    objects: all that count, crowd regions apart. found: those that NMS keeps. pairs: of objects of one class in one
    image whose IoU is above the threshold. in_pairs: objects that belong to at least one.
    """

    threshold: float
    objects: int
    found: int
    pairs: int
    in_pairs: int

    @property
    def recall(self) -> float:
        """Found of all objects; NaN where there are none."""
        return self.found / self.objects if self.objects else math.nan

    def to_json(self) -> dict[str, float | None]:
        """All numbers by name; NaN becomes None."""
        return {
            "threshold": self.threshold, "recall": None if math.isnan(self.recall) else self.recall,
            "found": self.found, "objects": self.objects, "pairs": self.pairs, "in_pairs": self.in_pairs,
        }  # fmt: skip


def nms_recall(annotations: Annotations, thresholds: Sequence[float] = (0.4, 0.5, 0.6, 0.7, 0.8)) -> list[NMSRecall]:
    """The recall of perfect boxes behind NMS at each threshold: the row "Annotations" of DATE's Table 4.

    1. The annotated boxes are taken as detections, all but the crowd regions, cut to their image.
    2. All have the same score. A greedy NMS, class by class, goes through them in the order of the annotation file: a
       box is dropped if its IoU with a kept one is above the threshold.
    3. A kept box finds the object it was made from. It finds no other, since a detection counts for one object alone:
       a suppressed object stays unfound however close its kept neighbor is. A box without area inside the image finds
       nothing, its IoU with anything is 0.

    The order of the file is arbitrary: the scores of a detector may make NMS keep a few boxes more or less.

    ValueError for a threshold outside (0, 1], for none, and for images of unknown size.
    """
    wrong = [threshold for threshold in thresholds if not 0 < threshold <= 1]
    if wrong or not thresholds:
        raise ValueError(f"nms_recall expected thresholds in (0, 1], got {wrong or 'none'}; they are IoUs.")
    owners = annotations.image_index()
    unknown = np.flatnonzero((annotations.sizes_hw <= 0).any(axis=1))
    if len(unknown):
        raise ValueError(f"nms_recall expected the size of each image, which boxes are cut to, got none for "
                         f"{annotations.files[int(unknown[0])]}; {len(unknown)} of {len(annotations)} have none.")
    boxes = torch.from_numpy(cut_to_images(annotations.boxes, annotations.sizes_hw[owners]))
    counting, labels = torch.from_numpy(~annotations.crowd), torch.from_numpy(annotations.labels)
    found, pairs, in_pairs = (np.zeros(len(thresholds), dtype=np.int64) for _ in range(3))
    for i in range(len(annotations)):
        objects = slice(int(annotations.offsets[i]), int(annotations.offsets[i + 1]))
        mine = boxes[objects][counting[objects]]
        of_class = labels[objects][counting[objects]]
        real = ((mine[:, 2:] - mine[:, :2]) > 0).all(dim=1)
        mine, of_class = mine[real], of_class[real]
        # Scores that fall along the file say what an order of equal scores means, whatever NMS makes of equal ones.
        order = -torch.arange(len(mine), dtype=torch.float64)
        iou = pairwise_iou(mine, mine)
        above = torch.triu(torch.where(of_class[:, None] == of_class, iou, 0.0), diagonal=1)  # [G, G]
        for number, threshold in enumerate(thresholds):
            close = above > threshold
            found[number] += len(batched_nms(mine, order, of_class, threshold))
            pairs[number] += int(close.sum())
            in_pairs[number] += int((close.any(dim=0) | close.any(dim=1)).sum())
    total = int(counting.sum())
    return [
        NMSRecall(threshold, total, int(found[n]), int(pairs[n]), int(in_pairs[n]))
        for n, threshold in enumerate(thresholds)
    ]
