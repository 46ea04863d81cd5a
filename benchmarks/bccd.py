"""FCOS, OneNet and DATE-F on blood cells: trains, evaluates on the test split, prints the table of the results page.

    python benchmarks/bccd.py --data DIR/bccd --weights resnet18.pth --out runs/bccd --seeds 0 1 2
    python benchmarks/bccd.py --out runs/bccd --table        # the table of runs that are there

Two cores take six minutes a run. One schedule, size and data order for all: 240x320, batch 4, 12 epochs, AdamW 2e-4
for body and head, cosine, mirroring, bf16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bifocals.cli.main import main as bifocals

RECIPES = {"fcos": ["fcos", "--tricks", "--nms", "0.6"], "onenet": ["onenet", "--matching", "poto"], "date": ["date"]}


def train(name: str, seed: int, data: str, weights: str, out: Path) -> None:
    workdir = out / f"{name}-{seed}"
    code = bifocals([
        "train", *RECIPES[name], "--data.root", data, "--data.on-defect", "skip",
        "--backbone.name", "resnet18", "--backbone.style", "pytorch", "--backbone.weights", weights,
        "--input.short", "240", "--input.long", "320",
        "--optim.lr", "2e-4", "--optim.batch-size", "4", "--optim.backbone-lr-factor", "1",
        "--optim.schedule", "cosine",
        "--run.precision", "bf16", "--run.eval-every", "0", "--run.workers", "1",
        "--run.seed", str(seed), "--run.workdir", str(workdir), "--run.resume", "auto",
    ])  # fmt: skip
    if code:
        raise SystemExit(code)
    for nms in ("none", "0.6", "default"):
        bifocals(["evaluate", str(workdir), "--split", "test", "--weights", "last", "--nms", nms])


def row(workdir: Path) -> str:
    record = json.loads((workdir / "run.json").read_text())
    run, output = record["results"], record["experiment"]["output"]
    name, seed = workdir.name.rsplit("-", 1)
    found = {n: json.loads((workdir / f"evaluation-test-{output}-{n}.json").read_text())
             for n in ("default", "none", "0.6")}
    shipped, free, suppressed = found["default"], found["none"], found["0.6"]
    kind = "none" if shipped["nms"] is None else f"NMS {shipped['nms']:g}"
    return (f"| {name} | {seed} | {kind} | {shipped['AP']:.3f} | {shipped['AP50']:.3f} | {shipped['AP75']:.3f} | "
            f"{free['AP']:.3f} | {suppressed['AP']:.3f} | {shipped['duplicate_rate']:.4f} | "
            f"{run['images_per_s']:.1f} | {run['minutes']:.1f} | [run.json](bccd/{workdir.name}/run.json) |")


def table(out: Path) -> str:
    head = ("| recipe | seed | shipped with | AP | AP50 | AP75 | AP without NMS | AP with NMS .6 | duplicate rate | "
            "training images/s | minutes | run |\n|" + "---|" * 12)
    done = sorted(p.parent for p in out.glob("*/run.json") if len(list(p.parent.glob("evaluation-test-*.json"))) == 3)
    return "\n".join([head, *(row(workdir) for workdir in done)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--table", action="store_true", help="only print the table of finished runs")
    args = parser.parse_args()
    if not args.table:
        for seed in args.seeds:
            for name in args.recipes:
                train(name, seed, args.data, args.weights, args.out)
    print(table(args.out))


if __name__ == "__main__":
    main()
