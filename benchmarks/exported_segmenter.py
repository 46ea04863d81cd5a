"""Is an exported segmenter faster? BiSeNet in ONNX Runtime against the eager network, in one run, with equal threads.

    python benchmarks/exported_segmenter.py [--input-hw 360 480] [--threads 1] [--images DIR] [--runs 20]
    python benchmarks/exported_segmenter.py --run WORKDIR --images DIR                 # trained weights

Both sides take the same bytes, one picture at a time in memory, in turns, and give the same thing: class logits at the
network's own stride ("forward"), logits enlarged to the picture ("logits"), or the best class of each pixel ("labels").
The eager side is timed as `bifocals predict` runs it (contiguous), and with weights and pictures in channels last;
there is a ratio to the first and one to the faster of both. Enlarging is `PixelPostprocess`'s own on the eager side.

What makes the graph fast: batch norms and ReLUs are folded into the convolutions, which keep one blocked layout from
stem to head and are 97 % of its time; labels leave it as bytes.

A picture of 360 rows is not a multiple of 32: it is measured as it is, and on the canvas of 384 rows that evaluation
and export put it on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifocals.data import read_image
from bifocals.export import PixelProgram, cpu_name, latency_ms
from bifocals.export.graph import count_ops, write_graph
from bifocals.networks import Backbone
from bifocals.predict import PixelPostprocess, find_pictures
from bifocals.recipes import bisenet
from bifocals.structures import Target

CAMVID_CLASSES = 11
Part = Literal["forward", "logits", "labels"]
PARTS: tuple[Part, ...] = ("forward", "logits", "labels")


class Forward(nn.Module):
    """The network's own map, not enlarged."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["main"]


def untrained(num_classes: int, **options: Any) -> nn.Module:
    """BiSeNet-R18 with random weights."""
    torch.manual_seed(0)
    return bisenet(backbone=Backbone("resnet18", "pytorch", "none", -1, "train"), **options).network(num_classes).eval()


def trained(folder: str) -> nn.Module:
    from bifocals.train import load

    return load(folder).network.eval()


def pictures(folder: str | None, number: int, input_hw: tuple[int, int]) -> tuple[list[Tensor], str]:
    """Real pictures of the wanted size where there are any, else drawn ones."""
    shared = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "camvid" / "test"
    source = Path(folder) if folder else shared
    if source.is_dir():
        files = [file for file, _ in find_pictures([source])][:number]
        resized = [F.interpolate(read_image(f)[None].float(), input_hw, mode="bilinear").byte() for f in files]
        return resized, f"{len(files)} pictures of {source.parent.name}/{source.name}"
    rng = np.random.default_rng(0)
    drawn = [torch.from_numpy(rng.integers(0, 256, (1, 3, *input_hw), dtype=np.uint8)) for _ in range(number)]
    return drawn, f"{number} drawn pictures (no folder of real ones was given)"


def eager(network: nn.Module, part: Part, input_hw: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """What the graph of that part computes, by the eager network."""
    none = torch.zeros(0)
    target = Target(none.reshape(0, 4), none.long(), none.bool(), input_hw, input_hw)
    postprocess = PixelPostprocess()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = network(images)["main"]
            if part == "forward":
                return logits
            return postprocess(logits, [target])[0] if part == "labels" else postprocess.at_original(logits, 0, target)

    return run


def exported(
    network: nn.Module, part: Part, input_hw: tuple[int, int], path: Path, threads: int
) -> onnxruntime.InferenceSession:
    program = Forward(network) if part == "forward" else PixelProgram(network, "main", argmax=part == "labels")
    write_graph(program.eval(), path, arguments={"images": torch.zeros(2, 3, *input_hw, dtype=torch.uint8)},
                output_names=[part], opset=18, metadata="{}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(network: nn.Module, images: list[Tensor], input_hw: tuple[int, int], options: Any) -> dict[str, Any]:
    """p50 and p90 of each part, exported and eager, over all pictures."""
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            path = Path(folder) / f"{part}.onnx"
            session = exported(network, part, input_hw, path, options.threads)
            plain, channels_last = (eager(n, part, input_hw) for n in (network, last))
            feeds = [{"images": image.numpy()} for image in images]
            turned = [image.contiguous(memory_format=torch.channels_last) for image in images]
            calls = {
                "exported": in_turn(partial(session.run, None), feeds),
                "eager": in_turn(plain, images),
                "eager, channels last": in_turn(channels_last, turned),
            }
            found = latency_ms(calls, runs=options.runs, warm_up=3)
            own, turned_p50 = found["eager"]["p50"], found["eager, channels last"]["p50"]
            rows[part] = {
                **found, "ratio": round(own / found["exported"]["p50"], 3),
                "ratio to the faster eager": round(min(own, turned_p50) / found["exported"]["p50"], 3),
                "ops": sum(count_ops(onnx.load(path).graph).values()),
            }
    return rows


def in_turn(function: Callable[[Any], object], given: list[Any]) -> Callable[[], object]:
    """A call that takes the next of what is given each time."""
    turn = itertools.cycle(given)
    return lambda: function(next(turn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="work directory of a trained BiSeNet")
    parser.add_argument("--input-hw", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--images", help="folder of pictures; CamVid of the shared data where there is one")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime and of torch")
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = trained(options.run) if options.run else untrained(CAMVID_CLASSES)
    height, width = options.input_hw
    record: dict[str, Any] = {"setup": {
        "weights": "trained" if options.run else "random", "threads": options.threads, "cpu": cpu_name(),
        "runs": options.runs, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
    }}
    for input_hw in dict.fromkeys([(height, width), (-(-height // 32) * 32, -(-width // 32) * 32)]):
        images, what = pictures(options.images, options.num_images, input_hw)
        record[f"{input_hw[0]}x{input_hw[1]}"] = {"pictures": what, **measure(network, images, input_hw, options)}
    print(json.dumps(record["setup"], indent=1))
    for size, rows in record.items():
        if size == "setup":
            continue
        heads = [name for name, value in rows["forward"].items() if isinstance(value, dict)]
        print(f"{size + ', p50 / p90 ms':<24}" + "".join(f"{head:>24}" for head in heads)
              + f"{'ratio':>9}{'to faster':>11}")
        for part in PARTS:
            cells = "".join(f"{v['p50']:>15.1f} /{v['p90']:>7.1f}" for v in rows[part].values() if isinstance(v, dict))
            print(f"{part:<24}{cells}{rows[part]['ratio']:>9.3f}{rows[part]['ratio to the faster eager']:>11.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
