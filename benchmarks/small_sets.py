"""Recipes on the small sets of the results pages: trains, evaluates, prints the table of a page.

    python benchmarks/small_sets.py bccd --data DIR/bccd --weights resnet18.pth --recipes date date_r --seeds 0 1
    python benchmarks/small_sets.py faces --data DIR/facemask --weights resnet18.pth
    python benchmarks/small_sets.py bccd --table            # the table of runs that are there

Two undisturbed cores take six minutes a run on bccd, sixteen on faces. One schedule, size and data order for all runs
of a set: batch 4, AdamW 2e-4 for body and head, cosine, mirroring, bf16.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from bifocals.cli.main import main as bifocals

BAGS = ("--towers.norm", "group", "--nms", "0.6")  # the head of MAL with the towers and the NMS of the others
RECIPES = {
    "fcos": ["fcos", "--tricks", "--nms", "0.6"],
    "onenet": ["onenet", "--matching", "poto"],
    "date": ["date"],
    "date_3dmf": ["date", "--filter3d"],
    "date_r": ["date", "--one2many", "retina"],
    "retinanet": ["retinanet", "--nms", "0.6"],
    "atss": ["atss"],
    "mal_baseline": ["mal", "--loss", "retinanet", "--depression.schedule", "none", *BAGS],
    "freeanchor": ["freeanchor", *BAGS],
    "mal_paper": ["mal", *BAGS],
    "mal_release": ["mal", "--rule", "release", *BAGS],
    "hcral_atss": ["hcral", "--host", "atss", "--eatss"],
    "hcral_retinanet": ["hcral", "--host", "retinanet"],
    "hcral_retinanet_focal": ["hcral", "--host", "retinanet", "--cls-loss", "focal", "--box-loss", "giou"],
    "hcral_aux": ["hcral", "--eatss", "--aux"],
}


@dataclass(frozen=True)
class SmallSet:
    """Size and length of the runs on a set, the split they are judged on, and whether people stand close there."""

    short: int
    long: int
    epochs: int
    split: str
    crowd: bool


SETS = {
    "bccd": SmallSet(240, 320, 12, "test", crowd=False),
    "faces": SmallSet(320, 416, 6, "val", crowd=True),
}


def train(chosen: SmallSet, name: str, seed: int, data: str, weights: str, workdir: Path) -> None:
    code = bifocals([
        "train", *RECIPES[name], "--data.root", data, "--data.on-defect", "skip", "--epochs", str(chosen.epochs),
        "--backbone.name", "resnet18", "--backbone.style", "pytorch", "--backbone.weights", weights,
        "--input.short", str(chosen.short), "--input.long", str(chosen.long),
        "--optim.name", "adamw", "--optim.clip-norm", "0.1", "--optim.warmup-steps", "1000",
        "--optim.warmup-factor", "0.001", "--optim.lr", "2e-4", "--optim.batch-size", "4",
        "--optim.backbone-lr-factor", "1", "--optim.schedule", "cosine",
        "--run.precision", "bf16", "--run.eval-every", "0", "--run.workers", "1",
        "--run.seed", str(seed), "--run.workdir", str(workdir), "--run.resume", "auto",
    ])  # fmt: skip
    if code:
        raise SystemExit(code)


def evaluate(chosen: SmallSet, workdir: Path) -> None:
    crowd = ["--crowd"] if chosen.crowd else []
    for nms in ("none", "0.6", "default"):
        analysis = ["--analysis"] if nms == "default" else []
        bifocals(["evaluate", str(workdir), "--split", chosen.split, "--weights", "last", "--nms", nms, *crowd,
                  *analysis])


def row(chosen: SmallSet, workdir: Path) -> str:
    record = json.loads((workdir / "run.json").read_text())
    run, output = record["results"], record["experiment"]["output"]
    name, seed = workdir.name.rsplit("-", 1)
    found = {n: json.loads((workdir / f"evaluation-{chosen.split}-{output}-{n}.json").read_text())
             for n in ("default", "none", "0.6")}
    shipped, free, suppressed = found["default"], found["none"], found["0.6"]
    kind = "none" if shipped["nms"] is None else f"NMS {shipped['nms']:g}"
    other, trust = shipped.get("other"), shipped.get("trust")
    crowd = ""
    if chosen.crowd:
        numbers = next(iter(shipped["crowd"].values()))
        crowd = f" {numbers['mmr']:.3f} | {numbers['recall']:.3f} |"
    gain = "" if trust is None else (f"{trust['gain']['value']:+.4f} ({trust['gain']['low']:+.4f} to "
                                     f"{trust['gain']['high']:+.4f}): {trust['verdict']}")
    return (f"| {name} | {seed} | {kind} | {shipped['AP']:.3f} | {shipped['AP50']:.3f} | {shipped['AP75']:.3f} |"
            f"{crowd} {free['AP']:.3f} | {suppressed['AP']:.3f} | "
            f"{'' if other is None else format(other['AP'], '.3f')} | "
            f"{shipped['duplicate_rate']:.3f} | {gain} | {run['minutes']:.1f} | "
            f"[run.json]({workdir.parent.name}/{workdir.name}/run.json) |")


def table(chosen: SmallSet, out: Path) -> str:
    crowd = " mMR | recall |" if chosen.crowd else ""
    head = (f"| recipe | seed | shipped with | AP | AP50 | AP75 |{crowd} AP without NMS | AP with NMS .6 | "
            "one2many with its NMS | duplicate rate | what NMS adds, 95 % interval | minutes | run |\n|")
    head += "---|" * (head.count("|") - 2)
    done = sorted(p.parent for p in out.glob("*/run.json")
                  if len(list(p.parent.glob(f"evaluation-{chosen.split}-*.json"))) >= 3)
    return "\n".join([head, *(row(chosen, workdir) for workdir in done)])


def analysis_table(chosen: SmallSet, out: Path) -> str:
    """What AP does not say, of the runs that were evaluated with it."""
    lines = ["| recipe | seed | AP | AP50 | AP75 | NMS-recall, mean | at .5 | at .7 | at .9 | correlation of score and "
             "IoU | the same above IoU .5 | localization, Loc - C50 | run |", "|" + "---|" * 13]
    for file in sorted(out.glob(f"*/evaluation-{chosen.split}-*-default.json")):
        found = json.loads(file.read_text())
        if not found.get("analysis"):
            continue
        before, errors = found["analysis"]["before_nms"], found["analysis"]["errors"]["mean"]
        name, seed = file.parent.name.rsplit("-", 1)
        kept = " | ".join(f"{before['nms_recall'][tau]:.3f}" for tau in ("0.50", "0.70", "0.90"))
        lines.append(
            f"| {name} | {seed} | {found['AP']:.3f} | {found['AP50']:.3f} | {found['AP75']:.3f} | "
            f"{before['mean_nms_recall']:.3f} | {kept} | {before['correlation']:.3f} | "
            f"{before['correlation_above_50']:.3f} | {errors['localization']:.3f} | "
            f"[run.json]({file.parent.parent.name}/{file.parent.name}/run.json) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--data", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("--out", type=Path, help="folder of the runs; runs/SET where none is named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", default=["fcos", "onenet", "date"], choices=list(RECIPES))
    parser.add_argument("--table", action="store_true", help="only print the table of finished runs")
    args = parser.parse_args()
    chosen, out = SETS[args.set], args.out or Path("runs") / args.set
    if not args.table:
        for seed in args.seeds:
            for name in args.recipes:
                workdir = out / f"{name}-{seed}"
                train(chosen, name, seed, args.data, args.weights, workdir)
                evaluate(chosen, workdir)
    print(table(chosen, out))
    print(analysis_table(chosen, out))


if __name__ == "__main__":
    main()
