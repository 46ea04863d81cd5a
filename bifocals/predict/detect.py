"""Batches -> detections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from bifocals.structures import Batch, Detections

from .inference import Precision, inference
from .postprocess import Postprocess


def detect(
    network: nn.Module,
    batches: Iterable[Batch],
    postprocess: Postprocess,
    output: str,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
) -> Iterator[tuple[int, Detections]]:
    """The image id and the detections of each image, in order, on the CPU, in pixels of the original images.

    The network is in evaluation mode while the iteration lasts; see `inference` for device, precision and errors.
    """
    with inference(network, output, device, precision) as forward:
        for batch in batches:
            found = postprocess(forward(batch), batch.targets)
            yield from zip(batch.image_ids, [detections.cpu() for detections in found], strict=True)
