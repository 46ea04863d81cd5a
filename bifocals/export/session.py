"""An exported detector at work.

Letters: h and w pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from bifocals.structures import Batch, Detections

from .fitting import fit_batch
from .metadata import Metadata, open_file


class OnnxDetector:
    """Runs an exported file with ONNX Runtime.

    detector = OnnxDetector("model.onnx")
    found = detector([image])[0]   # image: RGB bytes [3 h w]; found: boxes in its pixels, scores, labels, maybe masks

    threads: of one operator, None for ONNX Runtime's choice. providers: of ONNX Runtime, the CPU where None.
    ValueError if the file was not written by Bifocals, or is of a segmenter.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        self.session, self.metadata = open_file(path, Metadata, threads, providers)
        self._takes_size = len(self.session.get_inputs()) == 2

    @property
    def classes(self) -> tuple[str, ...]:
        return self.metadata.classes

    def __call__(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Detections]:
        """The detections of each picture, in its own pixels, best first. All pictures run as one batch."""
        return self.run(self.fit(images)) if len(images) else []

    def fit(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Batch:
        """Pictures as a batch of the file's input, resized as in training."""
        return fit_batch(images, self.metadata.input_hw, self.metadata.resize)

    def run(self, batch: Batch) -> list[Detections]:
        """The detections of a batch that has the size of the input, as `fit` makes it."""
        boxes, scores, labels, *rest = (torch.from_numpy(array) for array in self.session.run(None, self.feed(batch)))
        found = []
        for i, target in enumerate(batch.targets):
            real = scores[i] > 0
            height, width = target.size_hw
            inside = torch.minimum(boxes[i, real], torch.tensor([width, height, width, height], dtype=boxes.dtype))
            masks = rest[0][i, real] if rest else None
            found.append(Detections(inside / torch.tensor(target.scale_xyxy), scores[i, real], labels[i, real], masks))
        return found

    def feed(self, batch: Batch) -> dict[str, Any]:
        """What the graph takes for a batch."""
        feed = {"images": batch.images.numpy().astype(np.dtype(self.metadata.input_dtype), copy=False)}
        if self._takes_size:
            feed["size_hw"] = np.array([target.size_hw for target in batch.targets], dtype=np.int64)
        return feed
