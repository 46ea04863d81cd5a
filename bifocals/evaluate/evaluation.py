"""A network on an annotated set: the numbers, for one process or many.

Letters: I images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bifocals.data import Annotations, eval_stream
from bifocals.predict import Postprocess, Precision, Views, detect_views, inference, merging, of_output
from bifocals.structures import Detections, Target, of_all_ranks, rank, world_size

from .analysis import Analysis, Analyzer
from .average_precision import AveragePrecision, average_precision
from .duplicates import duplicate_rate
from .mask_ap import bare, mask_average_precision, masks_of
from .stopwatch import Stopwatch, protocol, speed
from .trust import Trust, trust_in

Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]

COMPARED_NMS = 0.6
"""The IoU of the class-wise NMS that an NMS-free output is compared with."""


WIDTH = 96
"""Columns of the table for a terminal."""


@dataclass(frozen=True, eq=False)
class Compared:
    """The same images, looked at with an NMS: by the same output or by another one of the same network."""

    output: str
    nms: float
    result: AveragePrecision
    detections: Mapping[int, Detections]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an output of a network is worth on an annotated set.

    nms: the IoU of the non-maximum suppression that was used, None for none. suppressed: of an output evaluated without
    NMS, the same with NMS at IoU .6; None elsewhere. trust: whether an output does without NMS, where that was asked
    for. other: then the network's output that needs NMS, if it has one. views: where images were looked at several
    times, how, in words. analysis: what AP does not say, where that was asked for.
    duplicate_rate: see the function of that name. max_detections: the most of an image that were kept.
    images_per_second: of all processes together, under the conditions of `protocol`; NaN for a set of a single batch.
    detections: of each image id, on the CPU, without masks. masks: COCO AP of the masks, where the annotations and the
    detections have any.
    """

    result: AveragePrecision
    suppressed: Compared | None
    other: Compared | None
    trust: Trust | None
    views: str | None
    analysis: Analysis | None
    duplicate_rate: float
    output: str
    nms: float | None
    max_detections: int
    num_images: int
    classes: tuple[str, ...]
    images_per_second: float
    protocol: str
    detections: Mapping[int, Detections]
    masks: AveragePrecision | None = None

    metric = "AP"

    @property
    def score(self) -> float:
        """COCO's AP, the mean over IoU .5 to .95: the number that chooses the best weights."""
        return self.result.ap

    @property
    def stats(self) -> dict[str, float]:
        """COCO's 12 numbers by name, NaN where one does not exist."""
        return self.result.stats

    @property
    def ap(self) -> float:
        """The same under its own name."""
        return self.result.ap

    @property
    def with_nms(self) -> AveragePrecision | None:
        """Of an output evaluated without NMS, its AP with NMS at IoU .6."""
        return None if self.suppressed is None else self.suppressed.result

    def rows(self) -> dict[str, tuple[AveragePrecision, Mapping[int, Detections]]]:
        """All that was evaluated, AP and detections, by the name that a table gives it."""
        rows = {"without NMS" if self.nms is None else f"with NMS {self.nms:g}": (self.result, self.detections)}
        if self.suppressed is not None:
            rows[f"with NMS {self.suppressed.nms:g}"] = (self.suppressed.result, self.suppressed.detections)
        if self.other is not None:
            rows[f"{self.other.output}, NMS {self.other.nms:g}"] = (self.other.result, self.other.detections)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Everything but the detections, as values that JSON has; NaN becomes None."""
        other = self.other
        return {
            "output": self.output,
            "nms": self.nms,
            "max_detections": self.max_detections,
            "num_images": self.num_images,
            **self.result.to_json(self.classes),
            "with_nms": None if self.with_nms is None else self.with_nms.to_json(self.classes),
            "compared_nms": None if self.suppressed is None else self.suppressed.nms,
            "other": None if other is None else {"output": other.output, "nms": other.nms,
                                                 **other.result.to_json(self.classes)},
            "masks": None if self.masks is None else self.masks.to_json(self.classes),
            "duplicate_rate": self.duplicate_rate,
            "trust": None if self.trust is None else self.trust.to_json(),
            "views": self.views,
            "analysis": None if self.analysis is None else self.analysis.to_json(self.classes),
            "images_per_second": None if math.isnan(self.images_per_second) else self.images_per_second,
            "protocol": self.protocol,
        }

    def line(self) -> str:
        """AP, and for an output without NMS what shows whether it needs one."""
        text = ", ".join(f"{name} {self.stats[name]:.4f}" for name in ("AP", "AP50", "AP75"))
        if self.with_nms is not None:
            text += f"; AP with NMS {self.with_nms.stats['AP']:.4f}"
        if self.masks is not None:
            text += f"; AP of masks {self.masks.ap:.4f}"
        return f"{text}; duplicate rate {self.duplicate_rate:.4f}"

    def summary(self) -> str:
        """A small table for a terminal, and the verdict on NMS where there is one."""
        suppression = "none" if self.nms is None else f"{self.nms:g}"
        lines = [f"{self.num_images} images, output {self.output}, NMS {suppression}"]
        if self.views is not None:
            lines += wrap(self.views, WIDTH, subsequent_indent="  ")
        rows = {f"AP {name}": result for name, (result, _) in self.rows().items()}
        if self.masks is not None:
            rows["AP of masks"] = self.masks
        width = max(map(len, rows))
        most = ap_detections(self.max_detections)
        heads = [f"AR{most}" if name == "AR100" else name for name in self.stats]
        lines.append(" " * width + "".join(f"{name:>6}" for name in heads))
        for name, result in rows.items():
            lines.append(f"{name:<{width}}" + "".join(f"{_short(result.stats[column]):>6}" for column in self.stats))
        speed = f"{self.images_per_second:.1f} images/s: {self.protocol}"
        lines += wrap(f"duplicate rate {self.duplicate_rate:.4f}; {speed}", WIDTH, subsequent_indent="  ")
        width = max([len(name) for name in self.classes], default=0)
        per_class = (self.result.class_ap.tolist(), self.result.class_ap50.tolist())
        for name, ap, ap50 in zip(self.classes, *per_class, strict=True):
            lines.append(f"  {name:<{width}}  AP {_short(ap)}  AP50 {_short(ap50)}")
        if self.analysis is not None:
            for line in self.analysis.lines(self.classes):
                lines += wrap(line, WIDTH, subsequent_indent="  ") if len(line) > WIDTH else [line]
        if self.trust is not None:
            lines += wrap(self.trust.sentence(), WIDTH, subsequent_indent="  ")
        return "\n".join(lines)


def evaluate(
    network: nn.Module,
    annotations: Annotations,
    *,
    transform: Transform,
    postprocess: Mapping[str, Any],
    output: str,
    nms: float | Literal["default"] | None = "default",
    max_detections: int | None = None,
    trust: bool = False,
    views: Views | None = None,
    analysis: bool = False,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    workers: int = 0,
) -> Evaluation:
    """COCO AP of an output, and whether it does without NMS; of its masks too, where it and the annotations have them.

    transform: the one of evaluation, without random parts. postprocess: of each output, by name. nms: an IoU, None for
    none, or "default" for what the output's postprocess says. max_detections: of an image, in place of what the
    postprocess says; above 100 all of them count for AP too, below COCO's 100 stay the limit of AP. device, precision:
    see `bifocals.predict.inference`. batch_size: images of a batch of this process; images of a batch share a canvas,
    whose padding a network may see.

    trust: of an output without NMS also judge whether it needs one (`Trust`), with the network's output that has NMS as
    the other side, if there is one; both come out of one pass over the images. Takes seconds after that pass.

    views: looks at each image through these in place of `transform` and merges what they give by an NMS, .6 where the
    output has none (`bifocals.predict.detect_views`); nothing is judged or compared then. analysis: also what AP does
    not say (`Analysis`), of a single look. ValueError for both.

    In a distributed run every rank calls, computes its share of the images, and returns the same numbers: each image
    counts once, however many ranks there are. The global random state is left alone.
    """
    chosen = _limited(of_output(postprocess, output, "evaluate"), max_detections)
    if nms != "default":
        chosen = replace(chosen, nms=nms)
    if views is not None and analysis:
        raise ValueError("evaluate expected views or analysis, got both; the analysis is of a single look.")
    if (views is not None or analysis) and not _is_dense(chosen):
        raise ValueError(f"evaluate expected a dense output for views and analysis, got {output!r} with "
                         f"{type(chosen).__name__}: regions of a second stage have no priors to look at.")
    seen = None if views is None else _in_words(views, chosen)
    chosen = chosen if views is None else merging(chosen)
    looks = {"chosen": (output, chosen)}
    if chosen.nms is None:
        looks["suppressed"] = (output, replace(chosen, nms=COMPARED_NMS))
        other = _output_with_nms(network, postprocess, output) if trust else None
        if other is not None:
            looks["other"] = (other, _limited(postprocess[other], max_detections))
    transforms = (transform,) if views is None else views.transforms
    streams = [
        eval_stream(annotations.without_masks(), look, batch_size=batch_size, workers=-(-workers // len(transforms)),
                    rank=rank(), world_size=world_size(), divisor=int(getattr(network, "size_divisor", 1)))
        for look in transforms
    ]  # the same images in the same batches, each time in another size
    analyzer = Analyzer(chosen, annotations) if analysis else None
    found: dict[str, dict[int, Detections]] = {name: {} for name in looks}
    masks: dict[int, list[str]] = {}
    watch = Stopwatch()
    whole = "other" in looks
    with inference(_Whole(network) if whole else network, "all" if whole else output, device, precision) as forward:
        for batch, *others in zip(*streams, strict=True):
            watch.start()
            if views is not None:
                merged = [d.cpu() for d in detect_views(forward, chosen, [batch, *others], views.flip)]
                watch.stop(len(merged))
                found["chosen"].update(zip(batch.image_ids, merged, strict=True))
                continue
            seen_by_network = forward(batch)
            outputs = seen_by_network if whole else {output: seen_by_network}
            detections = [d.cpu() for d in chosen(outputs[output], batch.targets)]
            watch.stop(len(detections))
            if annotations.segmentations is not None:
                masks.update(masks_of(detections, batch.targets))
            found["chosen"].update(zip(batch.image_ids, map(bare, detections), strict=True))
            for name, (source, choose) in looks.items():
                if name != "chosen":
                    again = [d.cpu() for d in choose(outputs[source], batch.targets)]
                    found[name].update(zip(batch.image_ids, map(bare, again), strict=True))
            if analyzer is not None:
                analyzer.look(outputs[output], batch)
    used = next((p.device for p in network.parameters()), torch.device("cpu"))
    gathered = of_all_ranks((found, watch.laps, {} if analyzer is None else analyzer.looks, masks))
    found = {name: {i: d for part, *_ in gathered for i, d in part[name].items()} for name in looks}
    assert len(found["chosen"]) == len(annotations) == sum(len(part["chosen"]) for part, *_ in gathered), "each once"
    masks = {i: drawn for *_, part in gathered for i, drawn in part.items()}
    names = getattr(network, "outputs", ())
    run = f"network with its outputs {' and '.join(names)}" if len(names) > 1 else "network"
    timed = speed([laps for _, laps, *_ in gathered],
                  protocol(used, precision, batch_size, f"transfer, {run} and postprocess"))
    limit = ap_detections(chosen.max_detections)
    result = {name: average_precision(of_look, annotations, max_detections=limit) for name, of_look in found.items()}
    if masks:
        result["masks"] = mask_average_precision(found["chosen"], annotations, masks=masks, max_detections=limit)

    def compared(name: str) -> Compared | None:
        if name not in looks:
            return None
        source, choose = looks[name]
        assert choose.nms is not None
        return Compared(source, choose.nms, result[name], found[name])

    suppressed, other_side = compared("suppressed"), compared("other")
    judged = None
    if trust and suppressed is not None:
        judged = trust_in(
            output, found["chosen"], suppressed.detections, annotations, nms=COMPARED_NMS, max_detections=limit,
            other=None if other_side is None else (other_side.output, other_side.nms, other_side.detections),
        )
    return Evaluation(
        result=result["chosen"],
        suppressed=suppressed,
        other=other_side,
        trust=judged,
        views=seen,
        analysis=None if analyzer is None else analyzer.result(
            {i: look for _, _, part, _ in gathered for i, look in part.items()}, found["chosen"], limit
        ),
        duplicate_rate=duplicate_rate(found["chosen"], annotations),
        output=output,
        nms=chosen.nms,
        max_detections=chosen.max_detections,
        num_images=len(annotations),
        classes=annotations.classes,
        images_per_second=timed.images_per_second,
        protocol=timed.protocol,
        detections=found["chosen"],
        masks=result.get("masks"),
    )


def ap_detections(max_detections: int) -> int:
    """How many detections of an image and a class count for AP: COCO's 100, or all where more were asked for."""
    return max(100, max_detections)


def _in_words(views: Views, postprocess: Postprocess) -> str:
    nms = f"NMS {merging(postprocess).nms:g}"
    if postprocess.nms is None:
        return f"{views}: {nms} merges what they find; a single look at this output needs none"
    return f"{views}: {nms} merges what they find"


def _limited(postprocess: Any, max_detections: int | None) -> Any:
    if max_detections is None:
        return postprocess
    changed = replace(postprocess, max_detections=max_detections)
    return replace(changed, per_level=max(changed.per_level, max_detections)) if _is_dense(changed) else changed


def _is_dense(postprocess: Any) -> bool:
    """Whether it chooses from priors, which looks from several sizes and the analysis before NMS need."""
    return isinstance(postprocess, Postprocess)


def _output_with_nms(network: nn.Module, postprocess: Mapping[str, Any], output: str) -> str | None:
    """The network's first output beside this one whose postprocess has NMS."""
    names = getattr(network, "outputs", ())
    others = [name for name in names if name != output and name in postprocess and postprocess[name].nms is not None]
    return others[0] if others and output in names else None


class _Whole(nn.Module):
    """All outputs of a network as if they were one, for `inference` gives one."""

    outputs = ("all",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> dict[str, Any]:
        return {"all": self.network(images, targets)}


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}".replace("0.", ".", 1) if value < 1 else f"{value:.4f}"
