"""Coordinate losses on boxes.

Letters: M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bifocals.structures import Matched, to_cxcywh


@dataclass(frozen=True)
class L1:
    """Sum of the four absolute differences of boxes divided by the image size, mean over the positives.

    format: "cxcywh" is the DATE port's, "xyxy" the original OneNet's. The image size is the un-padded one.
    """

    format: Literal["cxcywh", "xyxy"] = "cxcywh"

    def __post_init__(self) -> None:
        if self.format not in ("cxcywh", "xyxy"):
            raise ValueError(f"L1 expected format 'cxcywh' or 'xyxy', got {self.format!r}.")

    def __call__(self, matched: Matched) -> Tensor:
        boxes, targets = matched.boxes, matched.target_boxes
        if self.format == "cxcywh":
            boxes, targets = to_cxcywh(boxes), to_cxcywh(targets)
        # Each divided on its own, as the originals do it: the order of rounding is part of parity.
        size = matched.image_size_xyxy
        return (boxes / size - targets / size).abs().sum() / matched.num_positive
