"""The folder of a run: taken by one process at a time, never overwritten, resumed only as what it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bifocals.structures import rank

from .checkpoint import DamagedCheckpoint, list_checkpoints, remove_leftovers
from .durable import replace_file
from .provenance import differences
from .run import Run

RECORD = "run.json"

# Parts of run.json that say what is computed; a resumed run must have the same.
BINDING_PARTS = ("recipe", "arguments", "experiment", "run", "classes", "category_ids", "data_sha256")


def read_record(workdir: Path) -> dict[str, Any]:
    """run.json of a work directory. ValueError if there is none or it is no JSON object."""
    path = workdir / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{workdir} expected a work directory with {RECORD}, got a path without one.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} expected JSON, got a text that is none: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} expected a JSON object, got {type(record).__name__}.")
    return record


def write_record(workdir: Path, record: Mapping[str, Any]) -> None:
    replace_file(workdir / RECORD, json.dumps(record, indent=1, allow_nan=False).encode())


def claim(run: Run, values: Mapping[str, Any], say: Callable[[str], None] = print) -> dict[str, Any]:
    """The record of the run in `run.workdir`: `values` for a new one, what is there for one to go on with.

    ValueError if the folder holds a run and `resume` is "no", or holds one of other values.
    """
    workdir = Path(run.workdir)
    checkpoints = list_checkpoints(workdir)
    if not (workdir / RECORD).exists() and not checkpoints:
        return dict(values)
    if run.resume == "no":
        where = f"with checkpoints up to step {checkpoints[-1][0]}" if checkpoints else "without a checkpoint yet"
        raise ValueError(f"fit expected a folder without a run, got {workdir}, which holds one {where}: "
                         "name another with --run.workdir, or go on with --run.resume auto.")
    record = read_record(workdir)
    different = [line for part in BINDING_PARTS for line in differences(record.get(part), values[part], part)]
    # The arguments of a recipe come back in the experiment; one line is enough for each.
    arguments = {line.removeprefix("arguments.") for line in different if line.startswith("arguments.")}
    different = [line for line in different if line.removeprefix("experiment.") not in arguments]
    if different:
        raise ValueError(f"fit expected {workdir} to hold this run, got one of other values ({'; '.join(different)}): "
                         "give it the same values, or name another folder with --run.workdir.")
    if not checkpoints:
        if any(workdir.glob("checkpoints/damaged-*")):
            raise DamagedCheckpoint(f"{workdir} expected a whole checkpoint to go on from, got damaged ones alone; "
                                    "name another folder with --run.workdir.")
        say(f"{workdir} holds no finished checkpoint: starting at step 0")
    return record


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds a work directory for this process. ValueError if another process trains in it."""
    if rank() != 0:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "a+b") as file:
        _lock(file.fileno(), workdir)
        remove_leftovers(workdir)
        yield


def _lock(descriptor: int, workdir: Path) -> None:
    if os.name != "posix":
        return
    import fcntl

    try:
        # A record lock: it ends with this very process, while flock would live on in the loader's workers.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise ValueError(f"fit expected {workdir} for itself, got a folder that another process trains in.") from error
    except OSError:
        pass  # a file system without locks
