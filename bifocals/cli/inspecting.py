"""bifocals inspect WHAT ...: looking at what the methods do, on data and runs of one's own."""

from __future__ import annotations

import importlib
import sys

# WHAT -> the module beside this one that runs it, and what it does.
SUBJECTS = {
    "assign": ("inspect_assign", "Which priors each assigner takes for the objects of one image, and what the losses "
                                 "let each count."),
}

USAGE = """usage: bifocals inspect {names} ...

{rows}

bifocals inspect WHAT --help tells more."""


def run(argv: list[str]) -> int:
    rows = "\n".join(f"  {name:8}  {text}" for name, (_, text) in SUBJECTS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(names="|".join(SUBJECTS), rows=rows))
        return 0 if argv else 2
    if argv[0] not in SUBJECTS:
        print(f"bifocals inspect expected one of {list(SUBJECTS)}, got {argv[0]!r}.", file=sys.stderr)
        return 2
    return importlib.import_module(f"bifocals.cli.{SUBJECTS[argv[0]][0]}").run(argv[1:]) or 0
