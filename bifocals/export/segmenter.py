"""A segmenter as one ONNX file, with the proof that it computes the same.

Letters: B images, C classes, H and W pixels of the input.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import onnxruntime
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.data import LabelMaps, MapInput, map_eval_transform, read_image
from bifocals.evaluate import Confusion, confusion_matrix, evaluate_maps
from bifocals.predict import PixelPostprocess
from bifocals.structures import IGNORED, Batch, Target

from .certificate import FILE_NAME, METRICS, Accuracy, Certificate, versions
from .graph import write_graph
from .metadata import MapMetadata, as_text
from .pixel_parity import PixelDifference, PixelMap, PixelTolerance, compare_maps
from .pixel_program import PixelProgram
from .proof import Subject, prove, require
from .segmenter_session import OnnxSegmenter, label_maps

TOLERANCE, POSTPROCESS = PixelTolerance(), PixelPostprocess()
OPSET = 18
Transform = Callable[[Tensor, Target], tuple[Tensor, Target]]


def export_segmenter(
    network: nn.Module,
    path: str | Path,
    *,
    input_hw: tuple[int, int],
    images: Sequence[Tensor | str | Path],
    classes: Sequence[str],
    argmax: bool = False,
    output: str = "main",
    postprocess: PixelPostprocess = POSTPROCESS,
    input: MapInput | None = None,
    maps: LabelMaps | None = None,
    transform: Transform | None = None,
    miou_images: int = 500,
    input_dtype: Literal["uint8", "float32"] = "uint8",
    tolerance: PixelTolerance = TOLERANCE,
    runs: int = 20,
    certificate_name: str = FILE_NAME,
    log: Callable[[str], None] = print,
) -> Certificate:
    """Writes one output of the network, enlarged to the input, as one ONNX graph.

    The graph takes any number of images of `input_hw` pixels, a multiple of the network's `size_divisor`, and gives
    the logits of all classes at that size, or with `argmax` the best class of each pixel as a byte; `PixelProgram`
    describes both, `OnnxSegmenter` runs them on pictures of any size. Logits keep more where pictures are scaled: their
    label map is chosen at the size of the picture, not of the input.

    Before the file gets its name it is run by ONNX Runtime on `images` (real ones: RGB bytes [3 h w] or files) at
    batch 1, 2 and 3 against the eager network and `postprocess`, and on the first `miou_images` of `maps` where given.
    With `argmax` the logits that the graph chooses from are compared too. runs: of the latency measurement. The file
    `certificate_name` beside it holds what was found; files in one folder need names that differ.

    input: how training sized its pictures. Then they are scaled so here too, by `OnnxSegmenter` as well, and become
    smaller only where `input_hw` is too small; without it they become as large as fits. The record then also holds the
    mIoU of the eager network on the input of its training; `transform` takes the place of `input`'s own there.

    An older file at `path` and its certificate are removed first. ParityError if a difference exceeds the
    tolerance: then the file is named `*.rejected`, and `path` does not exist. ValueError for unusable arguments.
    """
    pictures = [image if isinstance(image, Tensor) else read_image(image) for image in images]
    require("export_segmenter", network, output, input_hw, pictures, input_dtype)
    if not 0 < len(classes) < IGNORED:
        raise ValueError(f"export_segmenter expected 1 to {IGNORED - 1} classes, got {len(classes)}; a label is a "
                         f"byte, and {IGNORED} means that a pixel does not count.")
    metadata = MapMetadata(
        classes=tuple(classes),
        input_hw=(int(input_hw[0]), int(input_hw[1])),
        input_dtype=input_dtype,
        factor=None if input is None else input.factor,
        output=output,
        argmax=argmax,
        bifocals=versions()["bifocals"],
    )
    if maps is not None:
        maps = maps.subset(range(min(miou_images, len(maps))))
        if transform is None and input is not None:
            transform = map_eval_transform(input)
    subject = _Segmenter(network, postprocess, metadata, tolerance, maps, transform)
    return prove(subject, Path(path), pictures, runs=runs, certificate_name=certificate_name, log=log)


class _Segmenter(Subject[PixelMap]):
    """The network as it was trained, on the CPU in float32, and the label map of each image."""

    def __init__(
        self,
        network: nn.Module,
        postprocess: PixelPostprocess,
        metadata: MapMetadata,
        tolerance: PixelTolerance,
        maps: LabelMaps | None,
        transform: Transform | None,
    ) -> None:
        self.network = copy.deepcopy(network).cpu().float().eval()
        self.postprocess = postprocess
        self.metadata: MapMetadata = metadata
        self.tolerance = tolerance
        self.maps, self.transform = maps, transform
        self.opset = OPSET

    def write(self, path: Path) -> None:
        program = PixelProgram(self.network, self.metadata.output, self.metadata.argmax).eval()
        images = torch.zeros(2, 3, *self.metadata.input_hw, dtype=getattr(torch, self.metadata.input_dtype))
        write_graph(
            program, path, arguments={"images": images}, output_names=["labels" if self.metadata.argmax else "logits"],
            opset=self.opset, metadata=as_text(self.metadata),
        )

    def open(self, path: Path, threads: int) -> OnnxSegmenter:
        self.runner = OnnxSegmenter(path, threads=threads)
        self.with_logits = _with_logits(path, threads) if self.metadata.argmax else self.runner.session
        return self.runner

    def eager(self, batch: Batch) -> Tensor:
        logits = self._logits(batch)
        return logits.argmax(dim=1).to(torch.uint8) if self.metadata.argmax else logits

    def _logits(self, batch: Batch) -> Float[Tensor, "B C H W"]:
        """At the size of the input, padding included."""
        with torch.inference_mode():
            small = self.network(batch.images)[self.metadata.output]
            whole = [replace(t, size_hw=self.metadata.input_hw, original_hw=self.metadata.input_hw)
                     for t in batch.targets]
            return torch.stack([self.postprocess.at_original(small, i, t) for i, t in enumerate(whole)])

    def expected(self, batch: Batch) -> list[PixelMap]:
        logits = self._logits(batch)
        return _cut(logits, logits.argmax(dim=1).to(torch.uint8), batch)

    def got(self, batch: Batch) -> list[PixelMap]:
        found = [torch.from_numpy(array) for array in self.with_logits.run(None, self.runner.feed(batch))]
        if self.metadata.argmax:
            # The labels of the file itself: its neighbor with a second output may be arranged in another way.
            labels = torch.from_numpy(self.runner.session.run(None, self.runner.feed(batch))[0])
            return _cut(found[1], labels, batch)
        return _cut(found[0], found[0].argmax(dim=1).to(torch.uint8), batch)

    def compare(self, expected: Sequence[PixelMap], got: Sequence[PixelMap]) -> PixelDifference:
        return compare_maps(expected, got, self.tolerance)

    def failure(self, difference: PixelDifference) -> str:
        if difference.within(self.tolerance):
            return ""
        return (f"logits differ by {difference.logit:.3g}, and {difference.other} of {difference.compared} pixels have "
                f"another label, where {self.tolerance.logit:g} and 0 were expected")

    @property
    def accuracy_tolerance(self) -> float:
        return self.tolerance.miou

    def judge(self) -> Accuracy | None:
        """mIoU of the file, of the eager network on the same pixels, and of the eager network on its own input."""
        maps = self.maps
        if maps is None:
            return None
        num_classes = len(self.metadata.classes)
        counts = {name: torch.zeros(num_classes, num_classes, dtype=torch.int64) for name in ("before", "after")}
        for index in range(len(maps)):
            image, target = maps.source(index)
            assert target.semantic is not None
            batch = self.runner.fit([image])
            found = {"before": label_maps(self.eager(batch), batch.targets), "after": self.runner.run(batch)}
            for name, predicted in found.items():
                counts[name] += confusion_matrix(target.semantic, predicted[0], num_classes)
        values: dict[str, float] = {}
        if self.transform is not None:
            values["training_input"] = evaluate_maps(
                self.network, maps, transform=self.transform, postprocess=self.postprocess,
                output=self.metadata.output, boundary=None,
            ).score
        values |= {name: Confusion(matrix).miou for name, matrix in counts.items()}
        known = {name: None if math.isnan(value) else value for name, value in values.items()}
        return Accuracy(METRICS["segment"], len(maps), known)


def _with_logits(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """The same graph with the logits before its argmax as a second output."""
    model = onnx.load(path)
    logits = [node.input[0] for node in model.graph.node if node.op_type == "ArgMax"][-1]
    model.graph.output.append(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _cut(logits: Tensor, labels: Tensor, batch: Batch) -> list[PixelMap]:
    """What lies inside the un-padded pictures."""
    sizes = [target.size_hw for target in batch.targets]
    return [PixelMap(logits[i, :, :h, :w], labels[i, :h, :w]) for i, (h, w) in enumerate(sizes)]
