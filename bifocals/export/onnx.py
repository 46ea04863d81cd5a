"""A network as one ONNX file, with the proof that it computes the same.

Letters: B images.
"""

from __future__ import annotations

import copy
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jaxtyping
import onnx
import torch
from torch import Tensor, nn

from bifocals.data import Annotations, DetectionDataset, Input, eval_transform, read_image
from bifocals.evaluate import average_precision, evaluate
from bifocals.networks import is_deformable
from bifocals.predict import Postprocess
from bifocals.structures import Batch, Detections, Target

from .certificate import FILE_NAME, Certificate, sha256_of, versions
from .class_nms import translations
from .latency import cpu_name, latency_ms
from .parity import Difference, Tolerance, compare
from .program import Program
from .session import METADATA_KEY, Metadata, OnnxDetector

BATCH_SIZES = (1, 2, 3)
TOLERANCE = Tolerance()
OPSET, DEFORMABLE_OPSET = 18, 19  # ONNX has deformable convolution from 19 on
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]


class ParityError(RuntimeError):
    """The exported file does not compute what the network computes."""


def export_onnx(
    network: nn.Module,
    path: str | Path,
    *,
    output: str,
    postprocess: Postprocess,
    input_hw: tuple[int, int],
    images: Sequence[Tensor | str | Path],
    classes: Sequence[str],
    input: Input | None = None,
    annotations: Annotations | None = None,
    transform: Transform | None = None,
    ap_images: int = 500,
    input_dtype: Literal["uint8", "float32"] = "uint8",
    tolerance: Tolerance = TOLERANCE,
    runs: int = 20,
    certificate_name: str = FILE_NAME,
    log: Callable[[str], None] = print,
) -> Certificate:
    """Writes one output of the network, decoding and the choice of detections included, as one ONNX graph.

    The graph takes any number of images of `input_hw` pixels, a multiple of the network's `size_divisor`; `Program`
    describes its inputs and outputs, `OnnxDetector` runs it on pictures of any size.

    Before the file gets its name it is run by ONNX Runtime on `images` (real ones: RGB bytes [3 h w] or files) at
    batch 1, 2 and 3 against the eager network and `postprocess`, and on the first `ap_images` of `annotations` where
    given. runs: of the latency measurement. The file `certificate_name` beside it holds what was found; files in one
    folder need names that differ.

    input: how training sized its pictures. Then they are resized so here too, by `OnnxDetector` as well, and become
    smaller only where `input_hw` is too small; without it they become as large as fits. The record then also holds the
    AP of the eager network on the input of its training; `transform` takes the place of `input`'s own transform there.

    An older file at `path` and its certificate are removed first. ParityError if a difference exceeds the
    tolerance: then the file is named `*.rejected`, and `path` does not exist. ValueError for unusable arguments.
    """
    path = Path(path)
    pictures = [image if isinstance(image, Tensor) else read_image(image) for image in images]
    _require(network, output, input_hw, pictures, input_dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected = path.with_name(path.name + ".rejected")
    for old in (path, path.parent / certificate_name, rejected):
        old.unlink(missing_ok=True)

    metadata = Metadata(
        classes=tuple(classes),
        input_hw=(int(input_hw[0]), int(input_hw[1])),
        input_dtype=input_dtype,
        resize=None if input is None else (input.short, input.long),
        output=output,
        score_threshold=postprocess.score_threshold,
        max_detections=postprocess.max_detections,
        nms=postprocess.nms,
        bifocals=versions()["bifocals"],
    )
    eager = _Eager(network, output, postprocess)
    unproved = path.with_name(path.name + ".unproved")
    try:
        _write(network, unproved, output, postprocess, metadata)
        detector = OnnxDetector(unproved, threads=torch.get_num_threads())
        parity = _parity(eager, detector, pictures, tolerance)
        ap, num_annotated = None, 0
        if annotations is not None:
            subset = annotations.subset(range(min(ap_images, len(annotations))))
            if transform is None and input is not None:
                transform = eval_transform(input)
            ap, num_annotated = _ap(eager, detector, subset, transform), len(subset)
        failure = _failure(parity, ap, tolerance)
        if failure:
            os.replace(unproved, rejected)
            raise ParityError(f"The exported file was rejected: {failure}; it was kept as {rejected.name}.")
        one = detector.fit(pictures[:1])
        feed = detector.feed(one)
        latency = latency_ms(
            {"onnxruntime": lambda: detector.session.run(None, feed), "eager": lambda: eager(one)}, runs=runs
        )
        model = onnx.load(unproved, load_external_data=False)
        certificate = Certificate(
            file=path.name, sha256=sha256_of(unproved), bytes=unproved.stat().st_size, metadata=metadata,
            opset=_opset(network),
            ops=dict(sorted(_count_ops(model.graph).items())), tolerance=tolerance, parity=parity,
            num_images=len(pictures), ap=ap, ap_images=num_annotated, latency_ms=latency,
            latency_protocol=f"one image in memory at {input_hw[0]}x{input_hw[1]}, decoding included, {runs} runs in "
                             f"turns after 3 to warm up, {torch.get_num_threads()} threads each, {cpu_name()}",
            versions=versions(),
        )
        os.replace(unproved, path)
    finally:
        unproved.unlink(missing_ok=True)
    certificate.save(path.parent, certificate_name)
    log(certificate.summary())
    return certificate


class _Eager:
    """The network as it was trained, on the CPU in float32, and the detections of a batch."""

    def __init__(self, network: nn.Module, output: str, postprocess: Postprocess) -> None:
        self.network = copy.deepcopy(network).cpu().float().eval()
        self.output, self.postprocess = output, postprocess

    def __call__(self, batch: Batch) -> list[Detections]:
        with torch.inference_mode():
            return self.postprocess(self.network(batch.images)[self.output], batch.targets)


def _require(
    network: nn.Module, output: str, input_hw: tuple[int, int], pictures: Sequence[Tensor], input_dtype: str
) -> None:
    divisor = int(getattr(network, "size_divisor", 1))
    if min(input_hw) < 1 or input_hw[0] % divisor or input_hw[1] % divisor:
        raise ValueError(f"export_onnx expected input_hw in multiples of {divisor}, got {tuple(input_hw)}; "
                         f"the strides of the network divide {divisor}.")
    if not pictures:
        raise ValueError("export_onnx expected real images to compare on, got none; one image is enough, eight of the "
                         "kind that the file will see are better.")
    for picture in pictures:
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(f"export_onnx expected images as RGB bytes [3, H, W], got {picture.dtype} of shape "
                             f"{list(picture.shape)}; files are taken as well.")
    if output not in getattr(network, "outputs", (output,)):
        raise ValueError(f"export_onnx expected the name of an output, got {output!r}; the network has "
                         f"{list(getattr(network, 'outputs', ()))}.")
    if input_dtype not in ("uint8", "float32"):
        raise ValueError(f"export_onnx expected input_dtype 'uint8' or 'float32', got {input_dtype!r}.")


def _write(
    network: nn.Module, path: Path, output: str, postprocess: Postprocess, metadata: Metadata
) -> None:
    program = Program(network, output, postprocess).cpu().float().eval()
    # Two images: a traced batch of one would be taken for a constant.
    arguments = {"images": torch.zeros(2, 3, *metadata.input_hw, dtype=getattr(torch, metadata.input_dtype))}
    if program.has_nms:
        arguments["size_hw"] = torch.tensor([metadata.input_hw] * 2)
    # Only the first input names the dimension: naming it twice makes the exporter warn that one name is not used.
    dynamic: dict[str, Any] = {name: {0: torch.export.Dim.DYNAMIC} for name in arguments}
    dynamic["images"] = {0: torch.export.Dim("batch")}
    with torch.no_grad(), _shapes_unchecked():
        made = torch.onnx.export(
            program,
            (),
            kwargs=dict(arguments),
            input_names=list(arguments),
            output_names=["boxes", "scores", "labels"],
            dynamic_shapes=dynamic,
            opset_version=_opset(network),
            dynamo=True,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert made is not None
    shape = made.model.graph.inputs[0].shape
    assert shape is not None
    batch = shape[0]
    if isinstance(batch, int):
        raise ParityError(f"The exported graph takes batches of {batch} only: something in the network reads the batch "
                          "size as a number, as `int(x.shape[0])` does, where any size was expected.")
    made.model.metadata_props[METADATA_KEY] = metadata.to_text()
    made.save(path, external_data=False)


def _opset(network: nn.Module) -> int:
    return DEFORMABLE_OPSET if is_deformable(network) else OPSET


@contextmanager
def _shapes_unchecked() -> Iterator[None]:
    """While a graph is traced sizes are symbols, and checking a shape would turn them into numbers, silently."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _parity(
    eager: _Eager, detector: OnnxDetector, pictures: Sequence[Tensor], tolerance: Tolerance
) -> dict[int, Difference]:
    """Differences by batch size. Each image passes through several rows of the larger batches."""
    singles = []
    for picture in pictures:
        batch = detector.fit([picture])
        # In pixels of the input, which is where the tolerance is meant.
        singles.append(Batch(batch.images, tuple(replace(t, original_hw=t.size_hw) for t in batch.targets)))
    expected = [eager(batch)[0] for batch in singles]
    differences = {}
    for size in BATCH_SIZES:
        worst = Difference(0.0, 0.0, 0, 0)
        for start in range(len(singles)):
            members = [(start + i) % len(singles) for i in range(size)]
            batch = Batch(
                torch.cat([singles[i].images for i in members]), tuple(singles[i].targets[0] for i in members)
            )
            worst |= compare([expected[i] for i in members], detector.run(batch), eager.postprocess, tolerance)
        differences[size] = worst
    return differences


def _ap(
    eager: _Eager, detector: OnnxDetector, annotations: Annotations, transform: Transform | None
) -> dict[str, float | None]:
    """AP of the file, of the eager network on the same pixels, and of the eager network on its own input."""
    dataset = DetectionDataset(annotations, lambda image, target: (image, target))
    before, after = {}, {}
    for index in range(len(annotations)):
        image, target = dataset.source(index)
        batch = detector.fit([image])
        before[target.image_id], after[target.image_id] = eager(batch)[0], detector.run(batch)[0]
    values: dict[str, float] = {}
    if transform is not None:
        values["training_input"] = evaluate(
            eager.network, annotations, transform=transform, postprocess={eager.output: eager.postprocess},
            output=eager.output,
        ).ap
    values["before"] = average_precision(before, annotations).stats["AP"]
    values["after"] = average_precision(after, annotations).stats["AP"]
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _failure(parity: dict[int, Difference], ap: dict[str, float | None] | None, tolerance: Tolerance) -> str:
    """What exceeds the tolerance, as half a sentence; empty if nothing does."""
    for size, difference in parity.items():
        if not difference.within(tolerance):
            return (f"at batch {size} boxes differ by {difference.box:.3g} px, scores by {difference.score:.3g}, and "
                    f"{difference.unpaired} of {difference.compared} detections have no partner, where "
                    f"{tolerance.box:g} px, {tolerance.score:g} and 0 were expected")
    if ap is not None and ap["before"] is not None and ap["after"] is not None:
        change = abs(ap["after"] - ap["before"])
        if change > tolerance.ap:
            return f"AP is {ap['after']:.4f} after and {ap['before']:.4f} before, where {tolerance.ap:g} was expected"
    return ""


def _count_ops(graph: Any) -> Counter[str]:
    """Operators of a graph and of the graphs inside its nodes."""
    counts: Counter[str] = Counter()
    for node in graph.node:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                counts.update(_count_ops(inner))
    return counts
