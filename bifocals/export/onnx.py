"""A detector as one ONNX file, with the proof that it computes the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bifocals.data import Annotations, Input, eval_transform, read_image
from bifocals.evaluate import average_precision, evaluate
from bifocals.networks import TwoStageDetector, is_deformable
from bifocals.predict import Postprocess, RoIPostprocess
from bifocals.structures import Batch, Detections, Target

from .certificate import FILE_NAME, METRICS, Accuracy, Certificate, versions
from .graph import write_graph
from .metadata import Metadata, as_text
from .parity import Difference, Tolerance, compare
from .program import Program
from .proof import Subject, prove, require
from .roi_program import RoIProgram
from .session import OnnxDetector

TOLERANCE = Tolerance()
OPSET, DEFORMABLE_OPSET = 18, 19  # ONNX has deformable convolution from 19 on
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]


def export_onnx(
    network: nn.Module,
    path: str | Path,
    *,
    output: str,
    postprocess: Postprocess | RoIPostprocess,
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
    describes its inputs and outputs, `RoIProgram` those of a two-stage detector (output "roi"), `OnnxDetector` runs it
    on pictures of any size.

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
    pictures = [image if isinstance(image, Tensor) else read_image(image) for image in images]
    require("export_onnx", network, output, input_hw, pictures, input_dtype)
    if isinstance(network, TwoStageDetector) and output != "roi":
        raise ValueError(f"export_onnx expected the output 'roi' of a two-stage detector, got {output!r}; its "
                         "proposals are part of the graph.")
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
    if annotations is not None:
        annotations = annotations.subset(range(min(ap_images, len(annotations))))
        if transform is None and input is not None:
            transform = eval_transform(input)
    subject = _Detector(network, postprocess, metadata, tolerance, annotations, transform)
    return prove(subject, Path(path), pictures, runs=runs, certificate_name=certificate_name, log=log)


class _Detector(Subject[Detections]):
    """The network as it was trained, on the CPU in float32, and the detections of a batch."""

    def __init__(
        self,
        network: nn.Module,
        postprocess: Any,
        metadata: Metadata,
        tolerance: Tolerance,
        annotations: Annotations | None,
        transform: Transform | None,
    ) -> None:
        self.network = copy.deepcopy(network).cpu().float().eval()
        self.postprocess = postprocess
        self.metadata: Metadata = metadata
        self.tolerance = tolerance
        self.annotations, self.transform = annotations, transform
        self.opset = DEFORMABLE_OPSET if is_deformable(network) else OPSET

    def write(self, path: Path) -> None:
        program: Program | RoIProgram
        if isinstance(self.network, TwoStageDetector):
            program = RoIProgram(self.network, self.postprocess)
        else:
            program = Program(self.network, self.metadata.output, self.postprocess)
        images = torch.zeros(2, 3, *self.metadata.input_hw, dtype=getattr(torch, self.metadata.input_dtype))
        arguments = {"images": images}
        if program.takes_size:
            arguments["size_hw"] = torch.tensor([self.metadata.input_hw] * 2)
        write_graph(
            program.eval(), path, arguments=arguments, output_names=program.output_names, opset=self.opset,
            metadata=as_text(self.metadata),
        )

    def open(self, path: Path, threads: int) -> OnnxDetector:
        self.runner = OnnxDetector(path, threads=threads)
        return self.runner

    def eager(self, batch: Batch) -> list[Detections]:
        with torch.inference_mode():
            return self.postprocess(self.network(batch.images)[self.metadata.output], batch.targets)

    def expected(self, batch: Batch) -> list[Detections]:
        return self.eager(batch)

    def got(self, batch: Batch) -> list[Detections]:
        return self.runner.run(batch)

    def compare(self, expected: Sequence[Detections], got: Sequence[Detections]) -> Difference:
        return compare(expected, got, self.postprocess, self.tolerance)

    def failure(self, difference: Difference) -> str:
        if difference.within(self.tolerance):
            return ""
        masks, allowed = "", ""
        if difference.mask is not None:
            masks, allowed = f", masks by {difference.mask:.3g}", f", {self.tolerance.mask:g}"
        return (f"boxes differ by {difference.box:.3g} px, scores by {difference.score:.3g}{masks}, and "
                f"{difference.unpaired} of {difference.compared} detections have no partner, where "
                f"{self.tolerance.box:g} px, {self.tolerance.score:g}{allowed} and 0 were expected")

    @property
    def accuracy_tolerance(self) -> float:
        return self.tolerance.ap

    def judge(self) -> Accuracy | None:
        """AP of the file, of the eager network on the same pixels, and of the eager network on its own input."""
        annotations = self.annotations
        if annotations is None:
            return None
        before, after = {}, {}
        for index in range(len(annotations)):
            image, target = annotations.source(index)
            batch = self.runner.fit([image])
            before[target.image_id], after[target.image_id] = self.eager(batch)[0], self.runner.run(batch)[0]
        values: dict[str, float] = {}
        if self.transform is not None:
            output = self.metadata.output
            values["training_input"] = evaluate(
                self.network, annotations, transform=self.transform, postprocess={output: self.postprocess},
                output=output,
            ).ap
        values["before"] = average_precision(before, annotations).stats["AP"]
        values["after"] = average_precision(after, annotations).stats["AP"]
        found = {name: None if math.isnan(value) else value for name, value in values.items()}
        return Accuracy(METRICS["detect"], len(annotations), found)
