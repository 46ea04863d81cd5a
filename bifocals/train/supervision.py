"""The objective of a trained run, with what its losses have learned."""

from __future__ import annotations

import json
from collections.abc import Callable

from torch import Tensor

from bifocals.objective import Objective

from .checkpoint import Checkpoint, DamagedCheckpoint, latest_checkpoint, list_checkpoints, read_checkpoint
from .load import Trained
from .weights import from_bytes


def load_objective(trained: Trained, say: Callable[[str], None] = print) -> tuple[Objective, str]:
    """The objective of a run in evaluation mode, its clock where the weights are, and in a sentence where its state is
    from.

    Losses may keep counts or means of past steps (GHM, HCRAL). They are read from the checkpoint of the step of the
    weights, or from the last one where that is gone; of a run of several processes, those of the first. ValueError if
    they are of another objective.
    """
    objective = trained.experiment.objective()
    checkpoint = _nearest(trained, say)
    if checkpoint is None:
        origin = "no checkpoint is left: the state of the losses is that of a fresh run"
        objective.set_step(max(0, trained.step - 1), max(1, trained.step))
        return objective.eval(), origin
    record = json.loads(checkpoint.files["state.json"])
    state = objective_state(checkpoint)
    missing, unknown = objective.load_state_dict({**state, **record["objective"]}, strict=False)
    if missing or unknown:
        raise ValueError(f"{checkpoint.folder} expected the state of this objective, got {missing} missing and "
                         f"{unknown} unknown.")
    objective.set_step(max(0, trained.step - 1), max(record["total"], trained.step))
    return objective.eval(), f"the state of the losses is that of step {checkpoint.step}"


def objective_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The buffers of the objective of the first process."""
    tensors, mine = from_bytes(checkpoint.files["state.safetensors"]), "objective/0/"
    return {name.removeprefix(mine): tensor for name, tensor in tensors.items() if name.startswith(mine)}


def _nearest(trained: Trained, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint of the step of the weights, else the last that is whole; None where there is none."""
    for step, folder in list_checkpoints(trained.workdir):
        if step == trained.step:
            try:
                return read_checkpoint(folder)
            except DamagedCheckpoint:
                break
    return latest_checkpoint(trained.workdir, say)
