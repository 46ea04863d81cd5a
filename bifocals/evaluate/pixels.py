"""A segmenter on labeled pictures: the numbers, for one process or many.

Letters: C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from bifocals.data import Source, eval_stream
from bifocals.predict import MapViews, PixelPostprocess, Precision, inference, of_output, segment
from bifocals.structures import Target, of_all_ranks, rank, sum_over_ranks, world_size

from .boundary_iou import RATIO, boundary_confusion, boundary_iou
from .miou import Confusion, confusion_matrix
from .stopwatch import Speed, Stopwatch, protocol, speed

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

WIDTH = 96
"""Columns of the table for a terminal."""


class Maps(Source, Protocol):
    """Labeled pictures with the names of their classes: `LabelMaps`, or one's own."""

    @property
    def classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class PixelEvaluation:
    """What an output of a segmenter is worth on labeled pictures.

    confusion: the counts over the whole set. boundary: of each class the boundary IoU, None where it was left out.
    views: how pictures were looked at, in words; None for a single look. speed: under the conditions that it names.
    """

    confusion: Confusion
    boundary: Float64[Tensor, "C"] | None
    output: str
    num_images: int
    classes: tuple[str, ...]
    views: str | None
    speed: Speed

    metric = "mIoU"

    @property
    def score(self) -> float:
        """The mean IoU: the number that chooses the best weights."""
        return self.confusion.miou

    @property
    def boundary_score(self) -> float:
        """The mean boundary IoU over classes with an outline, NaN where it was left out."""
        return math.nan if self.boundary is None else float(self.boundary.nanmean())

    @property
    def images_per_second(self) -> float:
        return self.speed.images_per_second

    def to_json(self) -> dict[str, Any]:
        """Everything, as values that JSON has; NaN becomes None."""
        found = self.confusion
        columns = {"iou": found.iou, "accuracy": found.accuracy, "precision": found.precision}
        if self.boundary is not None:
            columns["boundary_iou"] = self.boundary
        whole = {
            "mIoU": self.score, "pixel_accuracy": found.pixel_accuracy, "mean_accuracy": found.mean_accuracy,
            "frequency_weighted_iou": found.frequency_weighted_iou, "boundary_mIoU": self.boundary_score,
        }
        return {
            "output": self.output,
            "num_images": self.num_images,
            **{name: _number(value) for name, value in whole.items()},
            "classes": {name: {column: _number(float(values[i])) for column, values in columns.items()}
                        for i, name in enumerate(self.classes)},
            "confusion": found.counts.tolist(),
            "rule": found.rule,
            "views": self.views,
            **self.speed.to_json(),
        }

    def line(self) -> str:
        """One line of the log."""
        text = f"mIoU {_short(self.score)}, pixel accuracy {_short(self.confusion.pixel_accuracy)}"
        return text if self.boundary is None else f"{text}; boundary mIoU {_short(self.boundary_score)}"

    def summary(self) -> str:
        """A small table for a terminal."""
        found = self.confusion
        lines = [f"{self.num_images} images, output {self.output}"]
        if self.views is not None:
            lines += wrap(self.views, WIDTH, subsequent_indent="  ")
        width = max(map(len, [*self.classes, "mean"]))
        share = found.counts.sum(dim=1) / found.counts.sum()
        columns: Mapping[str, Any] = {"IoU": found.iou, "accuracy": found.accuracy} | (
            {} if self.boundary is None else {"boundary": self.boundary}) | {"pixels": share}
        lines.append(f"{'':<{width}}" + "".join(f"{head:>10}" for head in columns))
        for i, name in enumerate(self.classes):
            lines.append(f"{name:<{width}}" + "".join(f"{_short(float(v[i])):>10}" for v in columns.values()))
        means = [found.miou, found.mean_accuracy, *([] if self.boundary is None else [self.boundary_score])]
        lines.append(f"{'mean':<{width}}" + "".join(f"{_short(value):>10}" for value in means))
        lines.append(f"pixel accuracy {_short(found.pixel_accuracy)}")
        if not math.isnan(self.images_per_second):
            text = (f"{self.images_per_second:.1f} images/s, p50 {self.speed.p50_ms:.1f} ms and p90 "
                    f"{self.speed.p90_ms:.1f} ms a batch: {self.speed.protocol}")
            lines += wrap(text, WIDTH, subsequent_indent="  ")
        return "\n".join(lines)


def evaluate_maps(
    network: nn.Module,
    maps: Maps,
    *,
    transform: Transform,
    postprocess: PixelPostprocess | Mapping[str, PixelPostprocess],
    output: str,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    workers: int = 0,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    sliding: tuple[int, int] | None = None,
    boundary: float | None = RATIO,
) -> PixelEvaluation:
    """Mean IoU of an output, at the size of the labels: logits are resized, labels never.

    transform: the one of evaluation, without random parts; it leaves `semantic` at the original size. postprocess: of
    the output, or of each output by name. device, precision: see `bifocals.predict.inference`. batch_size: images of a
    batch of this process; images of a batch share a canvas, whose padding a network may see.

    scales, flip: each picture is looked at in several sizes and mirrored, and probabilities are averaged. sliding:
    looks are made of overlapping windows of this height and width. boundary: width of an outline as a share of the
    image's diagonal for boundary IoU; None leaves it out.

    In a distributed run every rank calls, computes its share of the images, and returns the same numbers: counts are
    added as whole numbers. The global random state is left alone. ValueError for labels of another size than the
    image, or that are no class.
    """
    views = MapViews(tuple(scales), flip, sliding)
    choose = of_output(postprocess, output, "evaluate_maps") if isinstance(postprocess, Mapping) else postprocess
    divisor = int(getattr(network, "size_divisor", 1))
    stream = eval_stream(maps, transform, batch_size=batch_size, workers=workers, rank=rank(), world_size=world_size(),
                         divisor=divisor)
    num_classes = len(maps.classes)
    pixels = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    outlines = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)
    seen, watch = torch.zeros(1, dtype=torch.int64), Stopwatch()
    with inference(network, output, device, precision) as forward:
        logits: Callable[..., Any] = forward
        for batch in stream:
            watch.start()
            found = [labels.cpu() for labels in segment(logits, batch, choose, views, divisor)]
            watch.stop(len(found))
            for target, predicted in zip(batch.targets, found, strict=True):
                truth = labels_of(target)
                pixels += confusion_matrix(truth, predicted, num_classes)
                if boundary is not None:
                    outlines += boundary_confusion(truth, predicted, num_classes, boundary)
            seen += len(found)
    used = next((p.device for p in network.parameters()), torch.device("cpu"))
    pixels, outlines, seen = (sum_over_ranks(counts.to(used)).cpu() for counts in (pixels, outlines, seen))
    assert int(seen) == len(maps), "each image once"
    timed = protocol(used, precision, batch_size, "transfer, network and label map at the original size")
    return PixelEvaluation(
        confusion=Confusion(pixels),
        boundary=None if boundary is None else boundary_iou(outlines),
        output=output,
        num_images=len(maps),
        classes=tuple(maps.classes),
        views=None if views == MapViews() else str(views),
        speed=speed(of_all_ranks(watch.laps), timed),
    )


def labels_of(target: Target) -> Tensor:
    """The labels of an image at its original size. ValueError where there are none, or of another size."""
    if target.semantic is None or tuple(target.semantic.shape) != target.original_hw:
        came = "none" if target.semantic is None else f"labels of {tuple(target.semantic.shape)}"
        raise ValueError(f"evaluate_maps expected a class for each of the {target.original_hw[0]} x "
                         f"{target.original_hw[1]} pixels of image {target.image_id}, got {came}; the transform of "
                         "evaluation resizes the image alone.")
    return target.semantic


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}".replace("0.", ".", 1) if value < 1 else f"{value:.4f}"
