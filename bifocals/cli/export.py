"""bifocals export WORKDIR"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bifocals.data import Input, MapInput
from bifocals.data.map_transforms import scaled_hw
from bifocals.data.transforms import resized_hw
from bifocals.export import CERTIFICATE, ParityError, export_onnx, export_segmenter
from bifocals.predict import of_output
from bifocals.train import load
from bifocals.train.task import TASKS

from .options import parse_nms, shipped

IMAGES = 6
"""Pictures that the proof runs on."""


def run(argv: list[str]) -> int:
    try:
        tyro.cli(export_run, args=argv, prog="bifocals export")
    except ParityError as error:
        raise ValueError(str(error)) from error  # a sentence on the command line
    return 0


def export_run(
    workdir: tyro.conf.Positional[Path],
    format: Literal["onnx"] = "onnx",
    out: Path | None = None,
    output: str = "",
    nms: str = "default",
    argmax: bool = False,
    input_hw: tuple[int, int] | None = None,
    split: Literal["train", "val", "test"] = "val",
    data_root: Annotated[str, tyro.conf.arg(name="data.root")] = "",
    ap_images: int = 100,
    weights: Literal["best", "last"] | None = None,
) -> None:
    """Writes the network, pruned to one output, as one ONNX graph: a detector with decoding and the choice of
    detections, a segmenter with its logits enlarged to the input. Proves on real images that it computes what the
    trained network does: certificate.json lies beside the file.

    --output one2many writes the NMS twin from the same weights: the run's other output with its NMS inside the graph.
    Its certificate is NAME.certificate.json, so that both proofs fit in one folder.

    Args:
        workdir: A work directory of bifocals train.
        format: onnx is what there is.
        out: The file; WORKDIR/OUTPUT.onnx where none is named.
        output: The output of the network, one2one or one2many; the one for inference where none is named.
        nms: none, or the IoU of the non-maximum suppression; what the recipe says where it is not given.
        argmax: Of a segmenter: the graph gives the best class of each pixel, a byte, in place of the logits.
        input_hw: Height and width of the graph's input, multiples of 32; by default what the training images need.
        split: The part of the training set that the proof takes its images from.
        data_root: Another folder than the one of the training.
        ap_images: Images for AP, of a segmenter for mIoU, before and after.
        weights: best or last; the best where there are any.
    """
    trained = load(workdir, weights)
    experiment = trained.experiment
    segments, suppression = experiment.task == "segment", parse_nms(nms)
    if argmax and not segments:
        raise ValueError(f"bifocals export expected a segmenter for --argmax, got the detector in {workdir}.")
    if suppression != "default" and segments:
        raise ValueError(f"bifocals export expected a detector for --nms, got the segmenter in {workdir}.")
    output = output or experiment.output
    path = out or workdir / f"{output}.onnx"
    data = replace(experiment.data, root=data_root) if data_root else experiment.data
    labeled = TASKS[experiment.task].open_split(data, split, classes=trained.classes)
    divisor = int(getattr(trained.network, "size_divisor", 1))
    given: dict[str, Any] = {
        "output": output,
        "postprocess": of_output(experiment.postprocess, output, "bifocals export"),
        "input_hw": input_hw or canvas(sizing(experiment.input), divisor, labeled.sizes_hw.tolist()),
        "images": [labeled.image_path(i) for i in range(min(len(labeled), IMAGES))],
        "classes": trained.classes,
        "input": experiment.input,
        "certificate_name": CERTIFICATE if output == experiment.output else f"{path.stem}.{CERTIFICATE}",
    }
    if segments:
        export_segmenter(trained.network, path, argmax=argmax, maps=labeled, miou_images=ap_images, **given)
    else:
        if suppression != "default":
            given["postprocess"] = replace(given["postprocess"], nms=suppression)
        export_onnx(shipped(trained.network, output), path, annotations=labeled, ap_images=ap_images, **given)
    print(f"exported {path}")


def sizing(input: Input | MapInput) -> Callable[[tuple[int, int]], tuple[int, int]]:
    """From the size of a picture to the one that evaluation gives it."""
    if isinstance(input, MapInput):
        return lambda size_hw: scaled_hw(size_hw, input.factor)
    return lambda size_hw: resized_hw(size_hw, input.short, input.long)


def canvas(
    size: Callable[[tuple[int, int]], tuple[int, int]], divisor: int, sizes_hw: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """The smallest canvas, in multiples of `divisor`, that holds every image as the evaluation resizes it."""
    height = width = 1
    for h, w in sizes_hw:
        resized = size((h, w))
        height, width = max(height, resized[0]), max(width, resized[1])
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor
