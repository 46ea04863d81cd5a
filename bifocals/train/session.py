"""Everything between a call of `fit` and its first step, and after its last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bifocals.structures import rank, world_size

from .checkpoint import latest_checkpoint, list_checkpoints, read_checkpoint, save_checkpoint, set_aside_damaged
from .distributed import parallel
from .ema import MovingAverage
from .experiment import Experiment
from .log import Log
from .optimizer import build_optimizer
from .provenance import Provenance, describe, environment, recipe_digest
from .rng import seed_all
from .run import BINDING, Run
from .state import State, pack, unpack
from .task import TASKS
from .workdir import claim, locked, write_record


@dataclass
class Session:
    """One process's part in a run, from start or resume to its end."""

    state: State
    workdir: Path
    validation: Any
    log: Log
    record: dict[str, Any]

    def restore_random(self) -> None:
        """Sets the random generators for the next step. Called when the loader is open, which may draw from them."""
        known = self.state.random
        if rank() < len(known):
            known[rank()].restore(self.state.device)
        else:
            # Each rank drops out other units; also a rank that was not there when the checkpoint was written.
            seed_all(self.state.run.seed + 7919 * (rank() + 1) + self.state.step)

    def save(self, control: dist.ProcessGroup | None) -> None:
        """Writes a checkpoint; all ranks call, and tell each other what it needs through `control`."""
        files = pack(self.state, control)
        if rank() == 0:
            self.log.sync()
            save_checkpoint(self.workdir, self.state.step, files)

    def finish(self) -> None:
        """Writes the results into run.json."""
        state = self.state
        images = state.step * state.experiment.optim.batch_size
        self.record["results"] = {
            "step": state.step, "epoch": state.epoch, "best": state.best or None,
            "last": state.history[-1] if state.history else None, "minutes": state.seconds / 60,
            "minutes_evaluating": state.seconds_evaluating / 60,
            "images_per_s": images / state.seconds if state.seconds else None,
        }
        if rank() == 0:
            write_record(self.workdir, self.record)


@contextmanager
def open_session(
    experiment: Experiment, run: Run, provenance: Provenance | None, device: torch.device
) -> Iterator[Session]:
    """Data, network and optimizer of a run, fresh or from its last good checkpoint, with the folder locked."""
    share = world_size() * run.accumulate
    if experiment.optim.batch_size % share:
        raise ValueError(f"fit expected a batch_size that {world_size()} processes with {run.accumulate} micro-batches "
                         f"can share, got {experiment.optim.batch_size}.")
    workdir = Path(run.workdir)
    with locked(workdir):
        say: Callable[[str], None] = print if rank() == 0 else _silent
        train, validation = _open_data(experiment, say)
        values = _values(experiment, run, provenance, train)
        start, record = _agree(run, workdir, values, say)
        seed_all(run.seed)
        state = build_state(experiment, run, device, train, say, resumed=start >= 0)
        # After the network: what cannot be built, like one from a file that is not there, leaves no run behind.
        if rank() == 0:
            record.setdefault("sessions", []).append(
                {"from_step": max(start, 0), "argv": list(provenance.argv) if provenance else [],
                 **environment(device, world_size())})
            write_record(workdir, record)
        if start >= 0:
            folder = dict(list_checkpoints(workdir))[start]
            unpack(state, read_checkpoint(folder))
            say(f"resuming from {folder} at step {state.step} of {state.total}")
        log = Log(workdir, run.loggers, record, state.step, state.total, active=rank() == 0)
        try:
            yield Session(state, workdir, validation, log, record)
        finally:
            log.close()


def build_state(
    experiment: Experiment, run: Run, device: torch.device, train: Any, say: Callable[[str], None] = print,
    *, resumed: bool = False,
) -> State:
    """Network, objective, optimizer and moving average of a run before its first step or, resumed, its next."""
    optim = experiment.optim
    network = experiment.network(len(train.classes))
    if experiment.start is not None and not (resumed and experiment.start_once):
        say(experiment.start(network))
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    objective = experiment.objective().to(device)
    learned = [name for name, _ in objective.named_parameters()]
    if learned:
        raise ValueError(f"fit expected an objective without parameters, which would differ between processes, got "
                         f"{learned}; state belongs into buffers.")
    ema = None if optim.ema is None else MovingAverage(network, optim.ema)
    ddp = parallel(network, device)
    forward = network if ddp is None else ddp
    return State(
        experiment=experiment, run=run, annotations=train, device=device, network=network,
        forward=torch.compile(forward) if run.compile else forward, ddp=ddp,
        objective=objective, optimizer=build_optimizer(network, optim), ema=ema,
        total=max(1, math.ceil(experiment.epochs * len(train) / optim.batch_size - 1e-9)),
    )


def _silent(text: str) -> None:
    """Other ranks than the first say nothing."""


def _open_data(experiment: Experiment, say: Callable[[str], None]) -> tuple[Any, Any]:
    """The training set, and the val split where there is one."""
    data, task = experiment.data, TASKS[experiment.task]
    # Each picture is read once, by rank 0, unless a broken one is to be left out: then all ranks must know it.
    whole = rank() == 0 or data.on_defect == "skip"
    wanted = {"masks": True} if experiment.masks else {}
    train = task.open_split(data, "train", say, whole=whole, **wanted)
    if not task.has_split(data, "val"):
        say("data: there is no val split, so the run is not evaluated; --data.holdout 0.2 would hold images out")
        return train, None
    return train, task.open_split(data, "val", say, classes=train.classes, whole=whole, **wanted)


def _values(experiment: Experiment, run: Run, provenance: Provenance | None, train: Any) -> dict[str, Any]:
    """What run.json says of a run before it starts."""
    return {
        "recipe": None if provenance is None else provenance.recipe,
        "recipe_sha256": None if provenance is None else recipe_digest(provenance.recipe),
        "arguments": None if provenance is None else provenance.resolved(_silent),
        "argv": [] if provenance is None else list(provenance.argv),
        "experiment": describe(experiment),
        "run": {name: getattr(run, name) for name in BINDING},
        "classes": list(train.classes),
        "category_ids": list(train.category_ids),
        **_colors(train),
        "images": len(train),
        "data_sha256": train.fingerprint(),
    }


def _colors(train: Any) -> dict[str, Any]:
    """The colors of the classes, where the set has its own."""
    palette = getattr(train, "palette", None)
    return {} if palette is None else {"palette": [list(color) for color in palette]}


def _agree(run: Run, workdir: Path, values: dict[str, Any], say: Callable[[str], None]) -> tuple[int, dict[str, Any]]:
    """The step to go on from, -1 for a start, equal on all ranks; and the record of the run on rank 0."""
    start = torch.full((1,), -1, dtype=torch.int64)
    record = dict(values)
    if rank() == 0:
        record = claim(run, values, say)
        found = latest_checkpoint(workdir, say)
        if found is not None:
            set_aside_damaged(workdir, found.step)
            start.fill_(found.step)
    if world_size() > 1:
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        start = start.to(device)
        dist.broadcast(start, src=0)
    return int(start.item()), record
