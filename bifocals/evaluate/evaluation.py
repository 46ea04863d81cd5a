"""A network on an annotated set: the numbers, for one process or many.

Letters: I images, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bifocals.data import Annotations, eval_stream
from bifocals.predict import Postprocess, Precision, inference, of_output
from bifocals.structures import Detections, Target, rank, world_size

from .average_precision import AveragePrecision, average_precision
from .duplicates import duplicate_rate

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

COMPARED_NMS = 0.6
"""The IoU of the class-wise NMS that an NMS-free output is compared with."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an output of a network is worth on an annotated set.

    nms: the IoU of the non-maximum suppression that was used, None for none. with_nms: of an output evaluated without
    NMS, the same with NMS at IoU .6; None elsewhere. duplicate_rate: see the function of that name. images_per_second:
    of all processes together, under the conditions of `protocol`; NaN for a set of a single batch.
    detections: of each image id, on the CPU.
    """

    result: AveragePrecision
    with_nms: AveragePrecision | None
    duplicate_rate: float
    output: str
    nms: float | None
    num_images: int
    classes: tuple[str, ...]
    images_per_second: float
    protocol: str
    detections: Mapping[int, Detections]

    @property
    def stats(self) -> dict[str, float]:
        """COCO's 12 numbers by name, NaN where one does not exist."""
        return self.result.stats

    @property
    def ap(self) -> float:
        """COCO's AP, the mean over IoU .5 to .95: the number that chooses the best weights."""
        return self.result.ap

    def to_json(self) -> dict[str, Any]:
        """Everything but the detections, as values that JSON has; NaN becomes None."""
        return {
            "output": self.output,
            "nms": self.nms,
            "num_images": self.num_images,
            **self.result.to_json(self.classes),
            "with_nms": None if self.with_nms is None else self.with_nms.to_json(self.classes),
            "compared_nms": None if self.with_nms is None else COMPARED_NMS,
            "duplicate_rate": self.duplicate_rate,
            "images_per_second": None if math.isnan(self.images_per_second) else self.images_per_second,
            "protocol": self.protocol,
        }

    def summary(self) -> str:
        """A small table for a terminal."""
        columns = list(self.stats)
        suppression = "none" if self.nms is None else f"{self.nms:g}"
        rows = [("AP without NMS" if self.nms is None else f"AP with NMS {suppression}", self.result)]
        if self.with_nms is not None:
            rows.append((f"AP with NMS {COMPARED_NMS:g}", self.with_nms))
        lines = [f"{self.num_images} images, output {self.output}, NMS {suppression}"]
        lines.append(" " * 18 + "".join(f"{name:>7}" for name in columns))
        for name, result in rows:
            lines.append(f"{name:<18}" + "".join(f"{_short(result.stats[column]):>7}" for column in columns))
        speed = f"{self.images_per_second:.1f} images/s: {self.protocol}"
        lines.append(f"duplicate rate {self.duplicate_rate:.4f}; {speed}")
        width = max([len(name) for name in self.classes], default=0)
        per_class = (self.result.class_ap.tolist(), self.result.class_ap50.tolist())
        for name, ap, ap50 in zip(self.classes, *per_class, strict=True):
            lines.append(f"  {name:<{width}}  AP {_short(ap)}  AP50 {_short(ap50)}")
        return "\n".join(lines)


def evaluate(
    network: nn.Module,
    annotations: Annotations,
    *,
    transform: Transform,
    postprocess: Mapping[str, Postprocess],
    output: str,
    nms: float | Literal["default"] | None = "default",
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    workers: int = 0,
) -> Evaluation:
    """COCO AP of an output, and whether it does without NMS.

    transform: the one of evaluation, without random parts. postprocess: of each output, by name. nms: an IoU, None for
    none, or "default" for what the output's postprocess says. device, precision: see `bifocals.predict.inference`.
    batch_size: images of a batch of this process; images of a batch share a canvas, whose padding a network may see.

    In a distributed run every rank calls, computes its share of the images, and returns the same numbers: each image
    counts once, however many ranks there are. The global random state is left alone.
    """
    chosen = of_output(postprocess, output, "evaluate")
    if nms != "default":
        chosen = replace(chosen, nms=nms)
    compared = replace(chosen, nms=COMPARED_NMS) if chosen.nms is None else None
    batches = eval_stream(
        annotations, transform, batch_size=batch_size, workers=workers, rank=rank(), world_size=world_size(),
        divisor=int(getattr(network, "size_divisor", 1)),
    )
    found: dict[int, Detections] = {}
    suppressed: dict[int, Detections] = {}
    clock = _Clock()
    with inference(network, output, device, precision) as forward:
        for batch in batches:
            clock.start()
            dense = forward(batch)
            detections = [d.cpu() for d in chosen(dense, batch.targets)]
            clock.stop(len(detections))
            found.update(zip(batch.image_ids, detections, strict=True))
            if compared is not None:
                again = [d.cpu() for d in compared(dense, batch.targets)]
                suppressed.update(zip(batch.image_ids, again, strict=True))
    used = next((p.device for p in network.parameters()), torch.device("cpu"))
    # Ranks may stop at different times: their rates add up, their seconds do not.
    gathered = _gather((found, suppressed, clock.rate()))
    found = {image_id: d for part in gathered for image_id, d in part[0].items()}
    suppressed = {image_id: d for part in gathered for image_id, d in part[1].items()}
    assert len(found) == len(annotations) == sum(len(part[0]) for part in gathered), "each image exactly once"
    return Evaluation(
        result=average_precision(found, annotations),
        with_nms=None if compared is None else average_precision(suppressed, annotations),
        duplicate_rate=duplicate_rate(found, annotations),
        output=output,
        nms=chosen.nms,
        num_images=len(annotations),
        classes=annotations.classes,
        images_per_second=sum(part[2] for part in gathered),
        protocol=_protocol(used, precision, batch_size),
        detections=found,
    )


class _Clock:
    """Images a second, without the first batch, which pays for warming up."""

    def __init__(self) -> None:
        self.batches, self.images, self.seconds, self.began = 0, 0, 0.0, 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self, images: int) -> None:
        """The detections are on the host when this is called, so the device has finished."""
        self.batches += 1
        if self.batches > 1:
            self.images += images
            self.seconds += time.perf_counter() - self.began

    def rate(self) -> float:
        return self.images / self.seconds if self.images else math.nan


def _gather(mine: Any) -> list[Any]:
    """The values of all ranks, in order, on every rank."""
    if world_size() == 1:
        return [mine]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return parts


def _protocol(device: torch.device, precision: str, batch_size: int) -> str:
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (f"transfer, network and postprocess of batches of {batch_size} in {precision} on {world_size()} x {place}, "
            "without reading images, first batch left out")


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}".replace("0.", ".", 1) if value < 1 else f"{value:.4f}"
