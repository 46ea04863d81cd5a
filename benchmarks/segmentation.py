"""What segmentation costs beside its network, and what exporting BiSeNet gains.

    python benchmarks/segmentation.py [--maps 233] [--hw 360 480] [--factor 1] [--classes 11] [--threads 1]
    python benchmarks/segmentation.py --weights WORKDIR --images DIR       # a trained run on real pictures

First the CPU seconds of `evaluate_maps` outside the network, for as many pictures of this size as CamVid has in its
test split: enlarging logits, the best class of each pixel, confusion, boundary IoU. Logits are smooth noise, labels
blobs. Then one picture at a time through the network and the best class of each pixel: eager, eager with channels last,
and the exported graph in ONNX Runtime, in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor

from bifocals.data import read_image
from bifocals.evaluate import boundary_confusion, confusion_matrix
from bifocals.export import PixelProgram, cpu_name, fit_batch, latency_ms
from bifocals.export.graph import write_graph
from bifocals.networks import Backbone, prune
from bifocals.predict import PixelPostprocess, find_pictures
from bifocals.recipes import bisenet
from bifocals.structures import Target

BODY = Backbone("resnet18", "pytorch", "none", frozen_stages=-1, norm="train")


def outside_the_network(maps: int, hw: tuple[int, int], factor: float, classes: int) -> dict[str, float]:
    """CPU seconds for `maps` pictures, by part."""
    size_hw = (round(hw[0] * factor), round(hw[1] * factor))
    cells = [-(-side // 32) * 4 for side in size_hw]
    draw = torch.Generator().manual_seed(0)
    none = torch.zeros(0)
    target = Target(none.view(0, 4), none.long(), none.bool(), size_hw, hw)
    coarse = torch.randn(8, classes, cells[0] // 4, cells[1] // 4, generator=draw)
    logits = F.interpolate(coarse, size=cells, mode="bilinear").to(memory_format=torch.channels_last)
    labels = F.interpolate(torch.randn(8, classes, 12, 16, generator=draw), size=hw, mode="bilinear")
    truth = labels.argmax(1).to(torch.uint8)
    truth[:, : hw[0] // 20] = 255
    seconds = dict.fromkeys(("label maps", "confusion", "boundary IoU"), 0.0)

    def timed(part: str, work: Callable[[], Tensor]) -> Tensor:
        began = time.process_time()
        made = work()
        seconds[part] += time.process_time() - began
        return made

    for i in range(-2, maps):
        if i == 0:  # two pictures to warm up
            seconds = dict.fromkeys(seconds, 0.0)
        one, true = logits[i % 8 : i % 8 + 1], truth[i % 8]
        found = timed("label maps", lambda one=one: PixelPostprocess()(one, [target])[0])  # type: ignore[misc]
        timed("confusion", lambda true=true, found=found: confusion_matrix(true, found, classes))  # type: ignore[misc]
        timed("boundary IoU", lambda true=true, found=found: boundary_confusion(true, found, classes))  # type: ignore[misc]
    return {**{part: round(value, 3) for part, value in seconds.items()}, "sum": round(sum(seconds.values()), 3)}


def network_of(options: Any) -> tuple[torch.nn.Module, str]:
    if options.weights:
        from bifocals.train import load

        trained = load(options.weights)
        return trained.network, f"{options.weights}, step {trained.step}"
    torch.manual_seed(0)
    return bisenet(backbone=BODY).network(options.classes), "BiSeNet-R18, random weights"


def forward(network: torch.nn.Module, images: Tensor, threads: int, runs: int) -> dict[str, dict[str, float]]:
    """p50 and p90 of a picture: network, enlarged logits, best class."""
    program = PixelProgram(prune(network, "main"), "main", argmax=True).eval()
    last = PixelProgram(prune(network, "main"), "main", argmax=True).eval().to(memory_format=torch.channels_last)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bisenet.onnx"
        two = torch.cat([images[:1], images[:1]])
        write_graph(program, path, arguments={"images": two}, output_names=["labels"], opset=18, metadata="{}")
        session = onnxruntime.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
    place = [0]

    def picture() -> Tensor:
        place[0] += 1
        return images[place[0] % len(images)][None]

    with torch.inference_mode():
        one = images[:1]
        exported = torch.from_numpy(session.run(None, {"images": one.numpy()})[0])
        differing = float((exported != program(one)).float().mean())
        assert differing < 1e-3, f"the graph gives {differing:.2%} of the pixels another class"
        return latency_ms({
            "eager": lambda: program(picture()),
            "eager, channels last": lambda: last(picture()),
            "exported": lambda: session.run(None, {"images": picture().numpy()}),
        }, runs=runs, warm_up=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=233, help="pictures of the evaluation")
    parser.add_argument("--hw", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--factor", type=float, default=1.0, help="size that the network sees of the first part")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--weights", help="work directory of a trained BiSeNet")
    parser.add_argument("--images", help="folder of pictures; noise where there is none")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of ONNX Runtime")
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hw = (options.hw[0], options.hw[1])
    canvas = (-(-hw[0] // 32) * 32, -(-hw[1] // 32) * 32)
    if options.images:
        files = [file for file, _ in find_pictures([options.images])][:8]
        images = torch.cat([fit_batch([read_image(file)], canvas).images for file in files])
    else:
        images = torch.randint(0, 256, (2, 3, *canvas), dtype=torch.uint8)
    network, what = network_of(options)
    times = forward(network.eval(), images, options.threads, options.runs)
    record = {
        "setup": {"cpu": cpu_name(), "threads": options.threads, "network": what, "canvas_hw": list(canvas),
                  "torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        f"CPU seconds for {options.maps} maps of {hw[0]}x{hw[1]}, network at {options.factor:g} of that":
            outside_the_network(options.maps, hw, options.factor, options.classes),
        "ms of a picture": times,
        "eager / exported": round(times["eager"]["p50"] / times["exported"]["p50"], 3),
    }
    print(json.dumps(record, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
