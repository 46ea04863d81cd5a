"""An exported file at work.

Letters: B images, K detections of an image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from bifocals.data.transforms import resized_hw
from bifocals.structures import Batch, Detections, Target

METADATA_KEY = "bifocals"


@dataclass(frozen=True)
class Metadata:
    """What a file says about itself: names of the classes, the size of its input, and how it chooses detections.

    resize: short and greatest long side in pixels to which training resized pictures, None where that is not known.
    """

    classes: tuple[str, ...]
    input_hw: tuple[int, int]
    input_dtype: str
    resize: tuple[int, int] | None
    output: str
    score_threshold: float
    max_detections: int
    nms: float | None
    bifocals: str

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> Metadata:
        values = json.loads(text)
        for name in ("classes", "input_hw", "resize"):
            values[name] = None if values[name] is None else tuple(values[name])
        return Metadata(**values)


def fit(
    image: UInt8[Tensor, "3 h w"], input_hw: tuple[int, int], resize: tuple[int, int] | None = None
) -> tuple[UInt8[Tensor, "3 H W"], tuple[int, int]]:
    """The picture inside `input_hw`, padded with zeros right and bottom, and its size there.

    resize: short and greatest long side; the picture is resized to them exactly as in training, and becomes smaller
    only where it would not fit. None: as large as fits. The ratio of the sides is kept.
    """
    size_hw = (image.shape[-2], image.shape[-1])
    if resize is not None:
        size_hw = resized_hw(size_hw, *resize)
    if resize is None or size_hw[0] > input_hw[0] or size_hw[1] > input_hw[1]:
        scale = min(input_hw[0] / size_hw[0], input_hw[1] / size_hw[1])
        height, width = (max(1, int(side * scale + 0.5)) for side in size_hw)
        size_hw = (min(height, input_hw[0]), min(width, input_hw[1]))
    canvas = torch.zeros(3, *input_hw, dtype=torch.uint8)
    canvas[:, : size_hw[0], : size_hw[1]] = F.resize(image, list(size_hw), antialias=True)
    return canvas, size_hw


def fit_batch(images: Sequence[Tensor], input_hw: tuple[int, int], resize: tuple[int, int] | None = None) -> Batch:
    """Pictures (RGB bytes [3 h w], any sizes) as one batch of the input's size, with targets that hold the sizes."""
    none = torch.zeros(0)
    canvases, targets = [], []
    for image in images:
        canvas, size_hw = fit(image, input_hw, resize)
        original_hw = (image.shape[-2], image.shape[-1])
        targets.append(Target(none.reshape(0, 4), none.long(), none.bool(), size_hw, original_hw))
        canvases.append(canvas)
    return Batch(torch.stack(canvases), tuple(targets))


class OnnxDetector:
    """Runs an exported file with ONNX Runtime.

    detector = OnnxDetector("model.onnx")
    found = detector([image])[0]          # image: RGB bytes [3 h w]; found: boxes in its pixels, scores, labels

    threads: of one operator, None for ONNX Runtime's choice. providers: of ONNX Runtime, the CPU where None.
    ValueError if the file was not written by Bifocals.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=list(providers or ["CPUExecutionProvider"])
        )
        text = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ValueError(f"OnnxDetector expected a file that Bifocals exported, got {str(path)!r} without metadata "
                             f"{METADATA_KEY!r}; ONNX Runtime itself runs any file.")
        self.metadata = Metadata.from_text(text)
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
        boxes, scores, labels = (torch.from_numpy(array) for array in self.session.run(None, self.feed(batch)))
        found = []
        for i, target in enumerate(batch.targets):
            real = scores[i] > 0
            height, width = target.size_hw
            inside = torch.minimum(boxes[i, real], torch.tensor([width, height, width, height], dtype=boxes.dtype))
            found.append(Detections(inside / torch.tensor(target.scale_xyxy), scores[i, real], labels[i, real]))
        return found

    def feed(self, batch: Batch) -> dict[str, Any]:
        """What the graph takes for a batch."""
        feed = {"images": batch.images.numpy().astype(np.dtype(self.metadata.input_dtype), copy=False)}
        if self._takes_size:
            feed["size_hw"] = np.array([target.size_hw for target in batch.targets], dtype=np.int64)
        return feed
