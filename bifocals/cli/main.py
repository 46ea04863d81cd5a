"""The command `bifocals`: argv -> one function of the floors below.

Only the command that is called is imported, so `bifocals --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
import os
import sys

import bifocals

COMMANDS = {
    "train": "Train a detector with a recipe on a folder of images and annotations.",
    "evaluate": "Average precision of a trained run, with and without NMS.",
    "predict": "Find objects in pictures: pictures with boxes, and COCO JSON.",
    "export": "Write a trained run as ONNX, with a certificate of its equality.",
    "check": "Check a data set before training, or a part of your own against its contract.",
    "inspect": "See what the methods do: which priors answer for the objects of an image, and how much each counts.",
    "nms-recall": "Recall that non-maximum suppression leaves to perfect detections of an annotated set.",
    "cost": "Parameters and multiply-accumulates of a recipe, by part.",
    "demo": "Draw a crowded set, train NMS-free and with NMS, compare: four minutes, no download.",
}

# Commands whose module is not called like them: a file inspect.py beside this one would hide Python's own `inspect`
# where this file is run by its path.
MODULES = {"inspect": "inspecting"}


def overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (f"bifocals {bifocals.__version__}: train, compare and ship detectors that need no NMS.\n\n"
            f"usage: bifocals COMMAND ...\n\n{rows}\n\n"
            "bifocals COMMAND --help tells more. bifocals train --help lists the recipes.")


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 failed, 2 not understood, 75 interrupted and saved."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(bifocals.__version__)
        return 0
    if argv[0] not in COMMANDS:
        print(f"bifocals expected one of the commands {list(COMMANDS)}, got {argv[0]!r}.", file=sys.stderr)
        return 2
    command = importlib.import_module(f"bifocals.cli.{MODULES.get(argv[0], argv[0].replace('-', '_'))}")
    try:
        return command.run(argv[1:]) or 0
    except (ValueError, TypeError, LookupError, OSError, FloatingPointError) as error:
        # What users can mend is one sentence; a developer asks for the traceback.
        if os.environ.get("BIFOCALS_TRACEBACK"):
            raise
        print(f"bifocals {argv[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
