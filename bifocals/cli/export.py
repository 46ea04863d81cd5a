"""bifocals export WORKDIR"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bifocals.data import Input, open_split
from bifocals.export import CERTIFICATE, export_onnx
from bifocals.networks import DenseDetector, prune
from bifocals.train import load

from .options import parse_nms


def run(argv: list[str]) -> int:
    tyro.cli(export_run, args=argv, prog="bifocals export")
    return 0


def export_run(
    workdir: tyro.conf.Positional[Path],
    format: Literal["onnx"] = "onnx",
    out: Path | None = None,
    output: str = "",
    nms: str = "default",
    input_hw: tuple[int, int] | None = None,
    split: Literal["train", "val", "test"] = "val",
    data_root: Annotated[str, tyro.conf.arg(name="data.root")] = "",
    ap_images: int = 100,
    weights: Literal["best", "last"] | None = None,
) -> None:
    """Writes the network, pruned to one output, with decoding and the choice of detections as one ONNX graph, and
    proves on real images that it computes what the trained network does: certificate.json lies beside the file.

    --output one2many writes the NMS twin from the same weights: the run's other output with its NMS inside the graph.
    Its certificate is NAME.certificate.json, so that both proofs fit in one folder.

    Args:
        workdir: A work directory of bifocals train.
        format: onnx is what there is.
        out: The file; WORKDIR/OUTPUT.onnx where none is named.
        output: The output of the network, one2one or one2many; the one for inference where none is named.
        nms: none, or the IoU of the non-maximum suppression; what the recipe says where it is not given.
        input_hw: Height and width of the graph's input, multiples of 32; by default what the training images need.
        split: The part of the training set that the proof takes its images from.
        data_root: Another folder than the one of the training.
        ap_images: Images for AP before and after.
        weights: best or last; the best where there are any.
    """
    trained = load(workdir, weights)
    experiment = trained.experiment
    output = output or experiment.output
    assert isinstance(trained.network, DenseDetector)
    network = prune(trained.network, output)
    postprocess = experiment.postprocess[output]
    suppression = parse_nms(nms)
    if suppression != "default":
        postprocess = replace(postprocess, nms=suppression)
    data = replace(experiment.data, root=data_root) if data_root else experiment.data
    annotations = open_split(data, split, classes=trained.classes)
    path = out or workdir / f"{output}.onnx"
    export_onnx(
        network,
        path,
        output=output,
        postprocess=postprocess,
        input_hw=input_hw or canvas(experiment.input, network.size_divisor, annotations.sizes_hw.tolist()),
        images=[annotations.image_path(i) for i in range(min(len(annotations), 6))],
        classes=trained.classes,
        annotations=annotations,
        input=experiment.input,
        ap_images=ap_images,
        certificate_name=CERTIFICATE if output == experiment.output else f"{path.stem}.{CERTIFICATE}",
    )
    print(f"exported {path}")


def canvas(size: Input, divisor: int, sizes_hw: list[list[int]]) -> tuple[int, int]:
    """The smallest canvas, in multiples of `divisor`, that holds every image as the evaluation resizes it."""
    height = width = 0
    for h, w in sizes_hw:
        scale = min(size.short / min(h, w), size.long / max(h, w))
        height, width = max(height, round(h * scale)), max(width, round(w * scale))
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor
