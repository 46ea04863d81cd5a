"""What AP does not say: an output before NMS, and where precision is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bifocals.data import Annotations
from bifocals.predict import Postprocess
from bifocals.structures import Batch, DenseOutput, Detections

from .before_nms import BeforeNMS, Look, look_before_nms, without_limits
from .error_split import ErrorSplit, error_split


@dataclass(frozen=True, eq=False)
class Analysis:
    """Beside the AP of an output: its boxes before NMS, and its errors by kind."""

    before_nms: BeforeNMS
    errors: ErrorSplit

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """All numbers by name; NaN becomes None."""
        return {"before_nms": self.before_nms.to_json(), "errors": self.errors.to_json(classes)}

    def lines(self, classes: tuple[str, ...]) -> list[str]:
        """For a terminal."""
        return [*self.errors.lines(classes), *self.before_nms.lines()]


class Analyzer:
    """Looks at each batch of an evaluation, and keeps of each image what the analysis needs.

    looks: of each image id; picklable, so that ranks can put theirs together.
    """

    def __init__(self, postprocess: Postprocess, annotations: Annotations) -> None:
        self.postprocess = without_limits(postprocess)
        self.annotations = annotations
        self.number = {int(image_id): i for i, image_id in enumerate(annotations.image_ids)}
        self.looks: dict[int, Look] = {}

    def look(self, output: DenseOutput, batch: Batch) -> None:
        """The boxes of an output before NMS, beside the objects of the images."""
        for i, target in enumerate(batch.targets):
            found = self.postprocess.candidates(output, i, target)
            number, truth = self.number[target.image_id], self.annotations
            objects = slice(truth.offsets[number], truth.offsets[number + 1])
            real = ~truth.crowd[objects]
            boxes = torch.from_numpy(truth.boxes[objects][real]).to(found.boxes)
            labels = torch.from_numpy(truth.labels[objects][real]).to(found.labels)
            self.looks[target.image_id] = look_before_nms(self.postprocess, found, boxes, labels)

    def result(
        self, looks: Mapping[int, Look], detections: Mapping[int, Detections], max_detections: int
    ) -> Analysis:
        """looks: of all ranks. detections: those that were evaluated."""
        assert self.postprocess.nms is not None
        return Analysis(
            BeforeNMS.of([looks[image_id] for image_id in sorted(looks)], self.postprocess.nms),
            error_split(detections, self.annotations, max_detections=max_detections),
        )
