"""Replays CrowdHuman's numbers, each step of the way that is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bifocals.data import Annotations
from bifocals.evaluate import crowd_metrics
from bifocals.evaluate.crowd import log_average_miss_rate, overlaps_of_classes, rank_detections
from bifocals.structures import Detections

from .case import Case

FROM_1E4 = (0.0001, 0.0003, 0.0010, 0.0032, 0.0100, 0.0316, 0.1000, 0.3162, 1.000)


def crowdhuman(case: Case) -> None:
    match = case.hyper["iou"]
    sizes, image = case.input("image_hw").numpy(), case.input("gt_image").numpy()
    order = np.argsort(image, kind="stable")
    boxes = _xyxy(case.input("gt_xywh").numpy())[order]
    annotations = Annotations(
        root=Path(),
        files=[f"{i}.jpg" for i in range(len(sizes))],
        image_ids=np.arange(len(sizes)),
        sizes_hw=sizes.astype(np.int32),
        offsets=np.concatenate([[0], np.bincount(image, minlength=len(sizes)).cumsum()]),
        boxes=boxes,
        labels=np.zeros(len(image), dtype=np.int64),
        crowd=case.input("gt_ignore").numpy()[order].astype(bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        classes=("person",),
        category_ids=(1,),
    )
    where, scores = case.input("det_image"), case.input("det_score")
    found_boxes = torch.from_numpy(_xyxy(case.input("det_xywh").numpy()))
    found = {
        int(i): Detections(found_boxes[where == i], scores[where == i], torch.zeros(int((where == i).sum())).long())
        for i in where.unique()
    }
    metrics = crowd_metrics(found, annotations, match=match)
    for ours, theirs in ((metrics.ap50, "date_ap"), (metrics.ap50, "mmdet_ap"), (metrics.mmr, "date_mmr"),
                         (metrics.mmr, "mmdet_mmr"), (metrics.recall, "date_recall"), (metrics.jaccard, "mmdet_ji")):
        case.check(theirs, ours)
    [overlaps] = overlaps_of_classes(found, annotations, match=match)
    ranked = rank_detections(overlaps)
    case.check("match_scores", torch.from_numpy(ranked.scores))
    case.check("match_label", torch.from_numpy(ranked.correct.astype(np.int64)))
    case.check("num_gt", ranked.num_objects)
    case.check("date_mmr_1e4", log_average_miss_rate(ranked, FROM_1E4))


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    wide = xywh.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, :2] + wide[:, 2:]], axis=1)
