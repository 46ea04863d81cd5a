"""Replays Pascal VOC's average precision, with the 11 recalls as mmdetection makes them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from bifocals.data import Annotations
from bifocals.evaluate import voc_metrics
from bifocals.structures import Detections

from .case import Case

_NAME = re.compile(r"map_(area|11point)_iou(\d+)_legacy([01])")


def voc_ap(case: Case) -> None:
    images, classes = case.hyper["num_images"], case.hyper["num_classes"]
    image = case.input("gt_image").numpy()
    order = np.argsort(image, kind="stable")
    boxes = case.input("gt_boxes").numpy().astype(np.float64)[order]
    annotations = Annotations(
        root=Path(),
        files=[f"{i}.jpg" for i in range(images)],
        image_ids=np.arange(images),
        sizes_hw=np.zeros((images, 2), dtype=np.int32),
        offsets=np.concatenate([[0], np.bincount(image, minlength=images).cumsum()]),
        boxes=boxes,
        labels=case.input("gt_label").numpy()[order],
        crowd=np.zeros(len(image), dtype=bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        classes=tuple(map(str, range(classes))),
        category_ids=tuple(range(classes)),
        difficult=case.input("gt_difficult").numpy()[order].astype(bool),
    )
    where, found_boxes = case.input("det_image"), case.input("det_boxes")
    scores, labels = case.input("det_score"), case.input("det_label")
    found = {int(i): Detections(found_boxes[where == i], scores[where == i], labels[where == i])
             for i in where.unique()}
    recorded = [match for name in case.arrays if (match := _NAME.fullmatch(name))]
    assert recorded
    for name in recorded:
        kind, percent, legacy = name.groups()
        metrics = voc_metrics(found, annotations, match=int(percent) / 100, plus_one=legacy == "1", points="arange")
        by_class, mean = ((metrics.by_area, metrics.ap_by_area) if kind == "area"
                          else (metrics.by_points, metrics.ap_by_points))
        case.check(name.group(), mean)
        case.check(name.group().replace("map_", "ap_"), torch.from_numpy(by_class))
        if "num_gts" not in case.checked:
            case.check("num_gts", torch.from_numpy(metrics.num_objects))
            case.check("num_dets", torch.from_numpy(metrics.num_detections))
