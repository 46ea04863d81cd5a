"""bifocals train RECIPE --data.root DIR"""

from __future__ import annotations

import sys

from bifocals.train import Provenance, Run, find_recipe, fit

from .find import parse_call, recipe_names, recipe_reference

USAGE = """usage: bifocals train RECIPE --data.root DIR [options]

Trains a recipe on a folder of images and annotations (COCO JSON, Pascal VOC or YOLO, found by themselves). The work
directory holds run.json, log.jsonl, checkpoints/ and best/; bifocals evaluate, predict and export read it.

recipes:
{recipes}
  FILE.py:FUNCTION  a function of your own that returns an Experiment

bifocals train RECIPE --help lists its options. Among them:
  --run.workdir DIR       where the run is kept (default: runs/latest)
  --run.resume auto       go on after an interruption, bit for bit
  --run.precision bf16    faster on most machines
  --data.on-defect skip   leave images with a defective annotation out instead of stopping

Under torchrun every process trains its share: torchrun --nproc-per-node 8 -m bifocals.cli.main train RECIPE ...
SIGTERM and Ctrl-C save a checkpoint and end with exit code 75."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        names = recipe_names()
        rows = "\n".join(f"  {name:16s}  {text}" for name, text in names.items())
        print(USAGE.format(recipes=rows))
        return 0 if argv else 2
    reference = recipe_reference(argv[0])
    recipe = find_recipe(reference)
    arguments, extra = parse_call(recipe, argv[1:], f"bifocals train {argv[0]}", run=(Run, Run()))
    experiment = recipe(**arguments)
    if not experiment.data.root:
        print("bifocals train expected --data.root DIR, the folder of images and annotations, got none.",
              file=sys.stderr)
        return 2
    workdir = fit(experiment, extra["run"], Provenance(reference, arguments, ("bifocals", "train", *argv)))
    print(f"trained: {workdir}\n  bifocals evaluate {workdir}\n  bifocals predict {workdir} IMAGE\n"
          f"  bifocals export {workdir}")
    return 0
