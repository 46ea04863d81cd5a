"""Replays the way from maps to detections, and from detections to average precision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bifocals.data import Annotations, PackedStrings
from bifocals.evaluate import average_precision
from bifocals.predict import Postprocess
from bifocals.structures import Anchors, DeltaCoder, DenseOutput, Detections, Target

from .branches import anchored_output_of, output_of
from .case import Case


@dataclass(frozen=True)
class ScaledTarget(Target):
    """A target that is told its scale, where the record has no original size."""

    factor: tuple[float, float] = (1.0, 1.0)

    @property
    def scale_xyxy(self) -> tuple[float, float, float, float]:
        return (*self.factor, *self.factor)


def postprocess(case: Case) -> None:
    keys = [k for k in ("cls_logits", "ltrb", "ctr_logits") if case.has(f"{k}_0")]
    if case.has("deltas_0"):
        maps = {k: case.levels(k) for k in ("cls_logits", "deltas", "ctr_logits") if case.has(f"{k}_0")}
        anchors = Anchors(8.0, 1, (1.0,)) if maps["deltas"][0].shape[1] == 4 else Anchors()
        output = anchored_output_of(case, maps, anchors, _coder(case))
    else:
        output = output_of(case, {k: case.levels(k) for k in keys})
    compare(case, output)


def compare(case: Case, output: DenseOutput) -> None:
    """The detections of an output, at the case's settings, beside the recorded ones."""
    hyper = case.hyper
    process = Postprocess(hyper["score_thr"], hyper["nms_pre"], hyper["max_per_img"], hyper.get("nms_iou"))
    sizes, factors = case.input("img_shapes").tolist(), case.input("scale_factors").tolist()
    empty = torch.zeros(0)
    for resized in (False, True):
        targets = [
            ScaledTarget(empty.reshape(0, 4), empty.long(), empty.bool(), (h, w), (h, w),
                         factor=(1.0, 1.0) if resized else (f[0], f[1]))
            for (h, w), f in zip(sizes, factors, strict=True)
        ]
        for i, found in enumerate(process(output, targets)):
            rows = torch.cat([found.boxes, found.scores[:, None]], dim=1)
            if resized:
                if case.has(f"img{i}_dets_resized"):
                    case.check(f"img{i}_dets_resized", rows)
                continue
            case.check(f"img{i}_labels", found.labels)
            if case.has(f"img{i}_dets"):
                case.check(f"img{i}_dets", rows)
            else:
                case.check(f"img{i}_boxes", found.boxes, "boxes")
                case.check(f"img{i}_scores", found.scores, "scores")


def _coder(case: Case) -> DeltaCoder:
    """The coder whose stds the hyper-parameters name, or else the description of the array."""
    described = case.meta["arrays"]["deltas_0"]["desc"].partition("stds")[2]
    stds = case.hyper.get("delta_stds") or re.findall(r"[0-9.]+", described)
    return DeltaCoder(tuple(map(float, stds[:4])))


def coco_ap(case: Case) -> None:
    assert case.hyper["max_dets"] == [1, 10, 100] and case.hyper["iou_thresholds"] == "0.50:0.05:0.95"
    num_classes, sizes = case.hyper["num_classes"], case.input("image_hw").numpy()
    image = case.input("gt_image").numpy()
    order = np.argsort(image, kind="stable")
    annotations = Annotations(
        root=Path(),
        files=PackedStrings.pack([f"{i}.jpg" for i in range(len(sizes))]),
        image_ids=np.arange(len(sizes)),
        sizes_hw=sizes.astype(np.int32),
        offsets=np.concatenate([[0], np.bincount(image, minlength=len(sizes)).cumsum()]),
        boxes=_xyxy(case.input("gt_xywh").numpy())[order],
        labels=case.input("gt_label").numpy()[order],
        crowd=case.input("gt_iscrowd").numpy()[order].astype(bool),
        area=case.input("gt_area").numpy()[order].astype(np.float64),
        classes=tuple(str(k) for k in range(num_classes)),
        category_ids=tuple(range(1, num_classes + 1)),
    )
    where = case.input("det_image")
    boxes = torch.from_numpy(_xyxy(case.input("det_xywh").numpy()).astype(np.float32))
    found = {}
    for i in range(len(sizes)):
        mine = torch.nonzero(where == i)[:, 0]
        mine = mine[case.input("det_score")[mine].argsort(descending=True)]
        found[i] = Detections(boxes[mine], case.input("det_score")[mine], case.input("det_label")[mine])
    result = average_precision(found, annotations)
    case.check("stats", _minus_one(np.array(list(result.stats.values()))))
    case.check("ap_per_class", _minus_one(result.class_ap))
    case.check("ap50_per_class", _minus_one(result.class_ap50))
    case.check("precision_all", _minus_one(result.precision[:, ::10]))
    case.check("recall_all", _minus_one(result.recall))


def _minus_one(values: np.ndarray) -> torch.Tensor:
    """pycocotools writes -1 where we have NaN."""
    return torch.from_numpy(np.where(np.isnan(values), -1.0, values))


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    wide = xywh.astype(np.float64)
    return np.concatenate([wide[:, :2], wide[:, :2] + wide[:, 2:]], axis=1)
