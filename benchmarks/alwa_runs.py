"""The runs of the page on loss weights: two-stage detectors on blood cells, trained, evaluated, tabled.

    python benchmarks/alwa_runs.py --data DIR/bccd --weights resnet18.pth                # all of it, one after another
    python benchmarks/alwa_runs.py --data DIR/bccd --weights resnet18.pth --runs fixed alwa1
    python benchmarks/alwa_runs.py --masks DIR/occlusion --weights resnet18.pth --runs mask_rcnn
    python benchmarks/alwa_runs.py --table                                                  # of the runs that are there

One schedule for all: ResNet-18 from ImageNet, 240x320, batch 4, AdamW 2e-4, cosine, 128 regions of an image, bf16. The
balancers stand at the RPN, as in ALWA, with windows of 20 steps: at 51 steps an epoch the paper's 100 would give three.
`constant` is the control that decides: the weight that ALWA asks for after its first window, from the start and for
good. It reads it from the log of `alwa1`, which must have run. Double-Head has 32 regions, and 200 proposals when it is
judged.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from bifocals.cli.main import main as bifocals

WINDOW = 20
AT_RPN = ("--balance.branches", "rpn", "--balance.window", str(WINDOW))


@dataclass(frozen=True)
class Planned:
    """A run: the recipe's arguments, and passes over the training images."""

    arguments: tuple[str, ...]
    epochs: int
    regions: int = 128


def planned(recipe: str, balance: str | None, epochs: int, *more: str, regions: int = 128) -> Planned:
    chosen = () if balance is None else ("--balance", balance, *AT_RPN)
    return Planned((recipe, *chosen, *more), epochs, regions)


# Its head of convolutions takes 275 GMACs an image with 1,000 proposals.
FEW = ("--rpn.proposals", "200")


RUNS = {
    "fixed": planned("faster_rcnn", None, 6),
    "alwa1": planned("faster_rcnn", "alwa1", 6),
    "alwa1_raw": planned("faster_rcnn", "alwa1", 6, "--balance.rule", "raw"),
    "constant": planned("faster_rcnn", "fixed", 6),
    "alwa2": planned("faster_rcnn", "alwa2", 1),
    "dwa": planned("faster_rcnn", "dwa", 1),
    "dtp": planned("faster_rcnn", "dtp", 1),
    "guided": planned("faster_rcnn", "guided", 1),
    "dynamic": planned("dynamic_rcnn", None, 2),
    "dynamic_alwa1": planned("dynamic_rcnn", "alwa1", 2),
    "double_head": planned("double_head_rcnn", None, 2, *FEW, regions=32),
    "double_head_alwa1": planned("double_head_rcnn", "alwa1", 2, *FEW, regions=32),
    "libra": planned("libra_rcnn", None, 2),
    "libra_alwa1": planned("libra_rcnn", "alwa1", 2),
    "mask_rcnn": planned("mask_rcnn", None, 2),
}


def first_alpha(workdir: Path) -> float:
    """The weight that the first window of a run asked for."""
    for line in (workdir / "log.jsonl").read_text().splitlines():
        for window in json.loads(line).get("windows", {}).get("rpn", []):
            if window["alpha"] is not None and window["alpha"] < 1:
                return float(window["alpha"])
    raise SystemExit(f"alwa_runs expected a window of ALWA below 1 in {workdir}/log.jsonl, got none")


def train(name: str, out: Path, args: argparse.Namespace) -> None:
    run = RUNS[name]
    masks = name == "mask_rcnn"
    root, short, long = (args.masks, 384, 384) if masks else (args.data, 240, 320)
    more = ["--data.on-defect", "skip"]
    if name == "constant":
        more += ["--balance.weights", str(first_alpha(out / "alwa1-0")), "1"]
    code = bifocals([
        "train", *run.arguments, "--data.root", root, *more, "--epochs", str(run.epochs),
        "--roi.samples", str(run.regions),
        "--backbone.name", "resnet18", "--backbone.style", "pytorch", "--backbone.weights", args.weights,
        "--input.short", str(short), "--input.long", str(long),
        "--optim.name", "adamw", "--optim.clip-norm", "1.0", "--optim.warmup-steps", "50",
        "--optim.warmup-factor", "0.001", "--optim.lr", "2e-4", "--optim.batch-size", "4",
        "--optim.backbone-lr-factor", "1", "--optim.schedule", "cosine",
        "--run.precision", "bf16", "--run.eval-every", "0", "--run.workers", "1", "--run.log-every", "5",
        "--run.seed", "0", "--run.workdir", str(out / f"{name}-0"), "--run.resume", "auto",
    ])  # fmt: skip
    code = code or bifocals(["evaluate", str(out / f"{name}-0"), "--split", "val" if masks else "test", "--weights",
                             "last", *([] if masks else ["--voc"])])
    if code:
        raise SystemExit(code)


def table(out: Path) -> str:
    lines = ["| run | epochs | AP by 11 points | AP by area | COCO AP | AP50 | mask AP | minutes | run |",
             "|" + "---|" * 9]
    for name in RUNS:
        workdir = out / f"{name}-0"
        files = list(workdir.glob("evaluation-*.json"))
        if not files:
            continue
        found, record = json.loads(files[0].read_text()), json.loads((workdir / "run.json").read_text())
        voc = next(iter(found["voc"].values())) if "voc" in found else {}
        masks = found.get("masks") or {}
        cells = [*(_number(voc.get(key)) for key in ("11point", "area")), _number(found["AP"]),
                 _number(found["AP50"]), _number(masks.get("AP"))]
        lines.append(f"| {name} | {record['experiment']['epochs']:g} | {' | '.join(cells)} | "
                     f"{record['results']['minutes']:.1f} | [run.json]({out.name}/{workdir.name}/run.json) |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="bccd, as Pascal VOC")
    parser.add_argument("--masks", default="", help="a set with masks, for mask_rcnn")
    parser.add_argument("--weights", default="", help="ImageNet weights of ResNet-18")
    parser.add_argument("--out", type=Path, default=Path("runs/alwa"))
    parser.add_argument("--runs", nargs="+", default=[n for n in RUNS if n != "mask_rcnn"], choices=list(RUNS))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        for name in args.runs:
            train(name, args.out, args)
    print(table(args.out))


if __name__ == "__main__":
    main()
