"""Is a detector without NMS faster? Exported DATE-F against exported FCOS with its NMS, in ONNX Runtime, in one run.

    python benchmarks/exported.py [--backbone resnet50] [--input-hw 640 640] [--images DIR] [--threads 1]
    python benchmarks/exported.py --date WORKDIR --fcos WORKDIR --images DIR       # trained weights

Both graphs have the same body, pyramid, towers and input, and run in turns on the same pictures, one at a time.
Measured are the whole graph, and what follows the network alone: decoding, top-k and, for FCOS, suppression.

The time of NMS depends on what is in the pictures. Without trained weights the class bias is set so that on average
`--candidates` pairs of prior and class of each picture pass FCOS's threshold of .05; a trained FCOS has 300 to 1000 on
COCO. FCOS is exported as well as we can: two-stage top-k for each level, and class-wise NMS that skips the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from bifocals.data import read_image
from bifocals.export import Program, cpu_name, fit_batch, latency_ms
from bifocals.export.class_nms import translations
from bifocals.networks import Backbone, DenseDetector
from bifocals.predict import Postprocess, find_pictures
from bifocals.recipes import date, fcos
from bifocals.structures import Batch, DenseOutput, Priors

OUTPUTS = {"DATE-F, no NMS": "one2one", "FCOS + NMS": "one2many"}


@dataclass(frozen=True)
class Model:
    network: DenseDetector
    output: str
    postprocess: Postprocess


class Following(nn.Module):
    """The part of a program that follows the network, with the network's output as input."""

    def __init__(self, program: Program, priors: Priors, input_hw: tuple[int, int]) -> None:
        super().__init__()
        self.program, self.priors, self.input_hw = program, priors, input_hw

    def forward(
        self, logits: Tensor, decoded: Tensor, quality: Tensor | None = None, size_hw: Tensor | None = None
    ) -> Any:
        output = DenseOutput(logits, decoded, decoded, self.priors, quality)
        return self.program.choose(output, self.input_hw, size_hw)


def untrained(backbone: str, num_classes: int) -> dict[str, Model]:
    """Both detectors with random weights; scores and boxes are made to vary from place to place."""
    body = Backbone(backbone, style="pytorch", weights="none")
    models = {}
    for name, experiment in zip(OUTPUTS, (date(backbone=body), fcos(backbone=body)), strict=True):
        torch.manual_seed(0)
        network = experiment.network(num_classes).eval()
        assert isinstance(network, DenseDetector)
        output = OUTPUTS[name]
        predictor: Any = network.head.predictors[output]
        nn.init.normal_(predictor.cls.weight, std=0.06)
        nn.init.constant_(predictor.box.bias, 1.0 if output == "one2one" else 3.0)
        models[name] = Model(network, output, experiment.postprocess[output])
    return models


def trained(folders: dict[str, str]) -> dict[str, Model]:
    from bifocals.train import load

    models = {}
    for name, folder in folders.items():
        run = load(folder)
        assert isinstance(run.network, DenseDetector)
        models[name] = Model(run.network.eval(), OUTPUTS[name], run.experiment.postprocess[OUTPUTS[name]])
    return models


@torch.inference_mode()
def set_candidates(model: Model, batches: Sequence[Batch], number: int, threshold: float) -> None:
    """Moves the class bias until `number` pairs of each picture pass the threshold on average."""
    logits = torch.cat([model.network(batch.images)[model.output].logits.flatten() for batch in batches])
    wanted = min(number * len(batches), len(logits))
    predictor: Any = model.network.head.predictors[model.output]
    predictor.cls.bias.add_(math.log(threshold / (1 - threshold)) - logits.topk(wanted).values[-1])


def export(module: nn.Module, inputs: dict[str, Tensor], path: Path, threads: int) -> onnxruntime.InferenceSession:
    dynamic: dict[str, Any] = {name: {0: torch.export.Dim.DYNAMIC} for name in inputs}
    dynamic[next(iter(inputs))] = {0: torch.export.Dim("batch")}
    with torch.no_grad():
        made = torch.onnx.export(
            module.eval(), (), kwargs=dict(inputs), input_names=list(inputs), dynamic_shapes=dynamic,
            output_names=["boxes", "scores", "labels"], opset_version=18, dynamo=True,
            custom_translation_table=translations(), verbose=False,
        )
    assert made is not None
    made.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def feeds(model: Model, batches: Sequence[Batch], whole: bool) -> list[dict[str, np.ndarray]]:
    """What the graph takes for each picture: the picture, or the output of the network."""
    rows = []
    for batch in batches:
        row = {"images": batch.images}
        if not whole:
            output = model.network(batch.images)[model.output]
            row = {"logits": output.logits.contiguous(), "decoded": output.boxes}
            if output.quality is not None:
                row["quality"] = output.quality
        if model.postprocess.nms is not None:
            row["size_hw"] = torch.tensor([target.size_hw for target in batch.targets])
        rows.append({name: tensor.numpy() for name, tensor in row.items()})
    return rows


def measure(models: dict[str, Model], batches: Sequence[Batch], whole: bool, options: Any) -> dict[str, Any]:
    """p50 and p90 of both models, in turns, over all pictures."""
    calls: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            rows = feeds(model, batches, whole)
            program: nn.Module = Program(model.network, model.output, model.postprocess)
            if not whole:
                with torch.no_grad():
                    priors = model.network(batches[0].images)[model.output].priors
                assert isinstance(program, Program)
                program = Following(program, priors, tuple(options.input_hw))
            two = {n: torch.from_numpy(np.concatenate([a, a])) for n, a in rows[0].items()}
            session = export(program, two, Path(folder) / f"{len(calls)}.onnx", options.threads)
            calls[name] = _in_order(session, rows)
        found = latency_ms(calls, runs=options.runs * len(batches), warm_up=len(batches))
    first, second = found
    return {**found, "ratio": round(found[second]["p50"] / found[first]["p50"], 3)}


def _in_order(session: onnxruntime.InferenceSession, rows: list[dict[str, np.ndarray]]) -> Any:
    """A call that runs the next picture each time."""
    place = [0]

    def call() -> None:
        session.run(None, rows[place[0] % len(rows)])
        place[0] += 1

    return call


def pictures(folder: str | None, number: int, input_hw: tuple[int, int]) -> tuple[list[Batch], str]:
    """Real pictures where there are any, else drawn ones."""
    shared = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "coco128"
    source = Path(folder) if folder else shared
    if source.is_dir():
        files = [file for file, _ in find_pictures([source])]
        chosen = [files[i * len(files) // number] for i in range(min(number, len(files)))]
        return [fit_batch([read_image(file)], input_hw) for file in chosen], f"{len(chosen)} pictures of {source.name}"
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(number):
        image = rng.integers(0, 256, (3, 12, 16), dtype=np.uint8).repeat(40, axis=1).repeat(40, axis=2)
        batches.append(fit_batch([torch.from_numpy(image)], input_hw))
    return batches, f"{number} drawn pictures (no folder of real ones was given)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="body of both, where they are not trained")
    parser.add_argument("--num-classes", type=int, default=80)
    parser.add_argument("--input-hw", type=int, nargs=2, default=(640, 640), metavar=("H", "W"))
    parser.add_argument("--candidates", type=int, default=700, help="pairs above .05 of each picture, not trained")
    parser.add_argument("--date", help="work directory of a trained DATE-F")
    parser.add_argument("--fcos", help="work directory of a trained FCOS with the same body")
    parser.add_argument("--images", help="folder of pictures; coco128 of the shared data where there is one")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="runs of each picture")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--json", help="also write the numbers to this file")
    options = parser.parse_args()
    if bool(options.date) != bool(options.fcos):
        parser.error("--date and --fcos go together")
    torch.set_num_threads(options.threads)
    batches, what = pictures(options.images, options.num_images, tuple(options.input_hw))
    if options.date:
        models = trained(dict(zip(OUTPUTS, (options.date, options.fcos), strict=True)))
    else:
        models = untrained(options.backbone, options.num_classes)
        for model in models.values():
            set_candidates(model, batches, options.candidates, 0.05)
    with torch.inference_mode():
        passing = {
            name: [int((m.network(b.images)[m.output].logits.sigmoid() > 0.05).sum()) for b in batches]
            for name, m in models.items()
        }
    record = {
        "setup": {
            "weights": "trained" if options.date else f"random, {options.backbone}", "input_hw": list(options.input_hw),
            "pictures": what, "pairs_above_.05": passing, "threads": options.threads, "cpu": cpu_name(),
            "onnxruntime": onnxruntime.__version__, "postprocess": {n: str(m.postprocess) for n, m in models.items()},
        },
        "what follows the network": measure(models, batches, False, options),
        "whole graph": measure(models, batches, True, options),
    }
    print(json.dumps(record["setup"], indent=1))
    print(f"{'p50 / p90 ms':<28}" + "".join(f"{name:>22}" for name in models) + f"{'ratio':>9}")
    for part in ("what follows the network", "whole graph"):
        row = record[part]
        cells = "".join(f"{row[name]['p50']:>13.2f} /{row[name]['p90']:>7.2f}" for name in models)
        print(f"{part:<28}{cells}{row['ratio']:>9.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
