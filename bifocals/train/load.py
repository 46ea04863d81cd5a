"""A trained detector out of a work directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from .checkpoint import latest_checkpoint
from .experiment import Experiment
from .provenance import rebuild
from .weights import best_path, from_bytes, load_weights, read_best
from .workdir import read_record


@dataclass(frozen=True)
class Trained:
    """What `load` gives: a network with its weights, in evaluation mode on the CPU, and where it comes from."""

    network: nn.Module
    experiment: Experiment
    classes: tuple[str, ...]
    """Names of the classes, in order of the label."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    workdir: Path
    run_json: dict[str, Any]
    step: int
    """Optimizer steps behind the weights."""
    weights: str
    """Which weights they are: best, last, or last (ema)."""


def load(
    workdir: str | Path,
    weights: Literal["best", "last"] | None = None,
    *,
    ema: bool = True,
    experiment: Experiment | None = None,
    say: Callable[[str], None] = print,
) -> Trained:
    """Builds the experiment that run.json describes again and gives it the weights of the run.

    weights: "best" by the evaluations of the run, "last" of its last checkpoint; None takes the best where the run was
    evaluated, else the last. ema: of the last checkpoint take the moving average where there is one. experiment: for
    runs that were started from an object and not from a recipe.

    A recipe in a .py file is executed to build the network, and `say` is told before. Everything is verified against
    its sha256; nothing is unpickled. ValueError for what is no work directory or has no such weights.
    """
    workdir = Path(workdir)
    record = read_record(workdir)
    if weights not in ("best", "last", None):
        raise ValueError(f"load expected weights 'best' or 'last', got {weights!r}.")
    if weights is None:
        weights = "best" if best_path(workdir).is_file() else "last"
    if weights == "best":
        if not best_path(workdir).is_file():
            raise ValueError(f"load expected best weights in {best_path(workdir)}, got no such file: the run was not "
                             "evaluated yet; weights 'last' takes its last checkpoint.")
        tensors, metadata = read_best(workdir)
        step, origin = int(metadata["step"]), best_path(workdir)
    else:
        checkpoint = latest_checkpoint(workdir, say)
        if checkpoint is None:
            raise ValueError(f"load expected a checkpoint in {workdir}, got a run that has not saved one yet.")
        step = json.loads(checkpoint.files["state.json"])["step"]
        name = "ema.safetensors" if ema and "ema.safetensors" in checkpoint.files else "model.safetensors"
        tensors, origin = from_bytes(checkpoint.files[name]), checkpoint.folder / name
    label = f"{weights} (ema)" if origin.name == "ema.safetensors" else weights
    built = rebuild(record, say) if experiment is None else experiment
    classes = tuple(record["classes"])
    # Building draws random weights that are overwritten; the caller's random numbers are not to change by it.
    with torch.random.fork_rng(devices=[]):
        network = built.network(len(classes))
    load_weights(network, tensors, origin)
    network.requires_grad_(False)
    return Trained(network.eval(), built, classes, tuple(record["category_ids"]), workdir, record, step, label)
