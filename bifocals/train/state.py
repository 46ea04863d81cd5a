"""Everything that changes during a run, and its way to a checkpoint and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bifocals.objective import Losses, Objective
from bifocals.structures import rank, world_size

from .checkpoint import Checkpoint
from .distributed import gather_over_ranks
from .ema import MovingAverage
from .experiment import Experiment
from .rng import RandomState
from .run import Run
from .weights import from_bytes, load_weights, to_bytes


@dataclass
class State:
    """What a step, `on_step` and `on_epoch` may look at."""

    experiment: Experiment
    run: Run
    annotations: Any
    """The training set: `Annotations`, of a segmenter `LabelMaps`."""
    device: torch.device
    network: nn.Module
    """The bare network: the weights that are saved."""
    forward: Callable[..., Any]
    """The network to call in training: under DDP and compiled where the run says so."""
    ddp: DistributedDataParallel | None
    """The part of `forward` that sums gradients over processes; None where there is one process."""
    objective: Objective
    optimizer: torch.optim.Optimizer
    ema: MovingAverage | None
    total: int
    """Optimizer steps of the whole run."""
    step: int = 0
    """Optimizer steps done."""
    losses: Losses | None = None
    """Of the last micro-batch of this process, without gradient."""
    best: dict[str, Any] = field(default_factory=dict)
    """step, epoch and value of the best evaluation so far; empty before the first."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """step, epoch and value of each evaluation."""
    seconds: float = 0.0
    """Time in training steps over all sessions, without evaluations and checkpoints."""
    seconds_evaluating: float = 0.0
    """Time in evaluations over all sessions."""
    random: list[RandomState] = field(default_factory=list)
    """Random states of each rank, from a checkpoint; restored once the loader is open."""

    @property
    def epoch(self) -> float:
        """Passes over the training set done."""
        return self.step * self.experiment.optim.batch_size / len(self.annotations)

    @property
    def weights(self) -> nn.Module:
        """The network to evaluate: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module

    def epochs_done(self, step: int) -> int:
        """Whole passes over the training set after `step` steps."""
        return step * self.experiment.optim.batch_size // len(self.annotations)


def pack(state: State, control: torch.distributed.ProcessGroup | None) -> dict[str, bytes]:
    """The files of a checkpoint; all ranks call, the result of rank 0 is written.

    FloatingPointError if a weight is not finite: such a checkpoint must not be written.
    """
    ranks = _gather_random(RandomState.capture(state.device), control)
    # A loss may keep a mean of what its own rank has seen, so the objective is saved for each rank.
    objective = state.objective.state_dict()
    buffers = {n: gather_over_ranks(v.cpu(), control) for n, v in objective.items() if isinstance(v, Tensor)}
    if rank() != 0:
        return {}
    for name, parameter in state.network.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(f"The checkpoint of step {state.step} is not written: its weight {name} is not "
                                     "finite.")
    tensors = _optimizer_tensors(state.optimizer)
    for i, one in enumerate(ranks):
        tensors |= {f"objective/{i}/{name}": stacked[i] for name, stacked in buffers.items()}
        tensors |= {f"random/{i}/{name}": tensor for name, tensor in one.tensors.items()}
    record = {
        "step": state.step,
        "total": state.total,
        "epoch": state.epoch,
        "seconds": state.seconds,
        "seconds_evaluating": state.seconds_evaluating,
        "best": state.best,
        "history": state.history,
        "ema_count": None if state.ema is None else int(state.ema.n_averaged),
        "objective": {n: v for n, v in objective.items() if not isinstance(v, Tensor)},
        "random": [one.numbers for one in ranks],
    }
    files = {
        "model.safetensors": to_bytes(state.network.state_dict()),
        "state.safetensors": to_bytes(tensors),
        "state.json": json.dumps(record, indent=1).encode(),
    }
    if state.ema is not None:
        files["ema.safetensors"] = to_bytes(state.ema.module.state_dict())
    return files


def unpack(state: State, checkpoint: Checkpoint) -> None:
    """Puts a verified checkpoint into a freshly built state. ValueError if it is of another network or objective."""
    record = json.loads(checkpoint.files["state.json"])
    tensors = from_bytes(checkpoint.files["state.safetensors"])
    load_weights(state.network, from_bytes(checkpoint.files["model.safetensors"]), checkpoint.folder)
    if state.ema is not None:
        load_weights(state.ema.module, from_bytes(checkpoint.files["ema.safetensors"]), checkpoint.folder)
        state.ema.n_averaged.fill_(record["ema_count"])
    parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "objective": {}, "random": {}}
    for name, tensor in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = tensor
    _load_optimizer(state.optimizer, parts["optimizer"], checkpoint)
    # A rank that was not there when the checkpoint was written goes on from the first one's.
    mine = f"{rank() if rank() < len(record['random']) else 0}/"
    buffers = {n.removeprefix(mine): t for n, t in parts["objective"].items() if n.startswith(mine)}
    missing, unknown = state.objective.load_state_dict({**buffers, **record["objective"]}, strict=False)
    if missing or unknown:
        raise ValueError(f"{checkpoint.folder} expected the state of this objective, got {missing} missing and "
                         f"{unknown} unknown.")
    state.random = [
        RandomState({n.split("/", 1)[1]: t for n, t in parts["random"].items() if n.startswith(f"{i}/")}, numbers)
        for i, numbers in enumerate(record["random"])
    ]
    state.step = record["step"]
    state.seconds, state.seconds_evaluating = record["seconds"], record["seconds_evaluating"]
    state.best, state.history = record["best"], record["history"]
    assert state.step == checkpoint.step


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`optimizer/KEY/PARAMETER` -> tensor."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            for key, value in optimizer.state[parameter].items():
                if value is not None:
                    tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
    return tensors


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    per_parameter: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, parameter = name.split("/", 1)
        per_parameter.setdefault(parameter, {})[key] = tensor
    mine = {n: p for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)}
    if checkpoint.step and set(per_parameter) != set(mine):
        missing, unknown = sorted(set(mine) - set(per_parameter)), sorted(set(per_parameter) - set(mine))
        raise ValueError(f"{checkpoint.folder} expected the optimizer of the parameters that learn now, got "
                         f"{len(missing)} missing {missing[:3]} and {len(unknown)} unknown {unknown[:3]}: were the "
                         "backbone's weights found in one session and not in the other?")
    state = optimizer.state_dict()
    index = {name: i for group in state["param_groups"] for name, i in
             zip(group["param_names"], group["params"], strict=True)}
    state["state"] = {index[name]: {key: _like(value, mine[name]) for key, value in values.items()}
                      for name, values in per_parameter.items()}
    optimizer.load_state_dict(state)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    # In the parameter's memory format: a fused step over mixed formats takes a slow path.
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device="cpu").copy_(value)


def _gather_random(mine: RandomState, control: torch.distributed.ProcessGroup | None) -> list[RandomState]:
    """The random states of all ranks, in order of the rank."""
    if world_size() == 1:
        return [mine]
    gathered = {name: gather_over_ranks(tensor, control) for name, tensor in mine.tensors.items()}
    text = json.dumps(mine.numbers).encode().ljust(256)
    assert len(text) == 256
    numbers = gather_over_ranks(torch.frombuffer(bytearray(text), dtype=torch.uint8), control)
    return [
        RandomState({name: stacked[i] for name, stacked in gathered.items()}, json.loads(bytes(numbers[i].tolist())))
        for i in range(world_size())
    ]
