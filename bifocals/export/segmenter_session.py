"""An exported segmenter at work.

Letters: B images, C classes, H and W pixels of the input, h and w of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bifocals.data.map_transforms import resize_labels, scaled_hw
from bifocals.predict import PixelPostprocess
from bifocals.structures import Batch, Target

from .fitting import place_batch
from .metadata import MapMetadata, open_file


class OnnxSegmenter:
    """Runs an exported file with ONNX Runtime.

    segmenter = OnnxSegmenter("main.onnx")
    labels = segmenter([image])[0]        # image: RGB bytes [3 h w]; labels: the class of each of its pixels [h w]

    threads: of one operator, None for ONNX Runtime's choice. providers: of ONNX Runtime, the CPU where None.
    ValueError if the file was not written by Bifocals, or is of a detector.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        self.session, self.metadata = open_file(path, MapMetadata, threads, providers)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.metadata.classes

    def __call__(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[UInt8[Tensor, "_ _"]]:
        """The label map of each picture, at its own size. All pictures run as one batch."""
        return self.run(self.fit(images)) if len(images) else []

    def fit(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Batch:
        """Pictures as a batch of the file's input, scaled as in training."""
        factor = self.metadata.factor
        wanted = None if factor is None else partial(scaled_hw, factor=factor)
        return place_batch(images, self.metadata.input_hw, wanted)

    def run(self, batch: Batch) -> list[UInt8[Tensor, "_ _"]]:
        """The label maps of a batch that has the size of the input, as `fit` makes it."""
        return label_maps(torch.from_numpy(self.session.run(None, self.feed(batch))[0]), batch.targets)

    def feed(self, batch: Batch) -> dict[str, Any]:
        """What the graph takes for a batch."""
        return {"images": batch.images.numpy().astype(np.dtype(self.metadata.input_dtype), copy=False)}


def label_maps(
    given: Float[Tensor, "B C H W"] | UInt8[Tensor, "B H W"], targets: Sequence[Target]
) -> list[UInt8[Tensor, "_ _"]]:
    """What a file gives as the label map of each picture at its original size. Logits are resized before the best
    class is chosen; of a map of labels each pixel takes the one that its center lies in."""
    if given.ndim == 4:
        return PixelPostprocess(stride=1)(given, targets)
    cut = [labels[: t.size_hw[0], : t.size_hw[1]] for labels, t in zip(given, targets, strict=True)]
    return [resize_labels(labels, t.original_hw) for labels, t in zip(cut, targets, strict=True)]
