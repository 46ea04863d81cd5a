"""Detections as COCO's results JSON, which every COCO evaluator reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bifocals.data import encode_masks
from bifocals.structures import Detections

from .paste import paste_masks


def coco_results(
    detections: Mapping[int, Detections],
    category_ids: Sequence[int],
    file_names: Mapping[int, str] | None = None,
    sizes_hw: Mapping[int, tuple[int, int]] | None = None,
) -> list[dict[str, Any]]:
    """COCO's list of {image_id, category_id, bbox, score}; bbox is x, y, width, height in pixels.

    category_ids: the id of each class in the annotation file. file_names: of each image id; adds `file_name` to each
    record, for pictures that have no annotation file. sizes_hw: height and width of each image; with it detections that
    have masks get a `segmentation` in COCO's run lengths. ValueError for a label without category id.
    """
    records: list[dict[str, Any]] = []
    for image_id, found in detections.items():
        boxes, scores, labels = found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()
        size_hw = None if sizes_hw is None or found.masks is None else sizes_hw[image_id]
        for row, ((x1, y1, x2, y2), score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
            if not 0 <= label < len(category_ids):
                raise ValueError(f"coco_results expected labels below the number of category ids, got label {label} "
                                 f"in image {image_id}; there are {len(category_ids)} category ids.")
            record = {
                "image_id": int(image_id),
                "category_id": int(category_ids[label]),
                "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
                "score": round(score, 9),  # finer than float32 above .01, so that no two scores become one
            }
            if file_names is not None:
                record["file_name"] = file_names[image_id]
            if size_hw is not None:
                assert found.masks is not None
                one = slice(row, row + 1)  # one at a time: a hundred masks of a large picture would fill the memory
                mask = paste_masks(found.masks[one], found.boxes[one], size_hw)
                record["segmentation"] = {"size": list(size_hw), "counts": encode_masks(mask)[0]}
            records.append(record)
    return records


def save_results(
    path: str | Path,
    detections: Mapping[int, Detections],
    category_ids: Sequence[int],
    file_names: Mapping[int, str] | None = None,
    sizes_hw: Mapping[int, tuple[int, int]] | None = None,
) -> None:
    """Writes `coco_results` to a file."""
    records = coco_results(detections, category_ids, file_names, sizes_hw)
    Path(path).write_text(json.dumps(records, allow_nan=False), encoding="utf-8")
