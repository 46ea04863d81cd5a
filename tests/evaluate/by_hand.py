"""Annotations and detections written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bifocals.data import Annotations
from bifocals.structures import Detections


def annotated(
    rows: list[tuple[int, list[float], int]], num_images: int = 2, num_classes: int = 1, image_ids: object = None,
    crowd: object = None, area: object = None,
) -> Annotations:
    """Annotations of (image, xyxy, label), sorted by image."""
    boxes = np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4)
    counts = np.bincount([row[0] for row in rows], minlength=num_images) if rows else np.zeros(num_images, dtype=int)
    return Annotations(
        root=Path("."), files=[f"{i}.jpg" for i in range(num_images)],  # type: ignore[arg-type]
        image_ids=np.array(range(num_images) if image_ids is None else image_ids, dtype=np.int64),
        sizes_hw=np.full((num_images, 2), 100, dtype=np.int32), offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=boxes, labels=np.array([row[2] for row in rows], dtype=np.int64),
        crowd=np.zeros(len(rows), dtype=bool) if crowd is None else np.array(crowd),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) if area is None else np.array(area, dtype=np.float64),
        classes=tuple(str(c) for c in range(num_classes)), category_ids=tuple(range(num_classes)),
    )


def found(*rows: tuple[list[float], float, int]) -> Detections:
    return Detections(torch.tensor([r[0] for r in rows], dtype=torch.float64).reshape(-1, 4),
                      torch.tensor([r[1] for r in rows], dtype=torch.float64),
                      torch.tensor([r[2] for r in rows], dtype=torch.int64))
