"""Evaluation during training, and what it makes the best weights."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from bifocals.structures import rank, world_size

from .state import State
from .task import TASKS
from .weights import save_best


class Validation:
    """Evaluates the weights of a run on the val split; without one it is never due."""

    def __init__(self, state: State, annotations: Any) -> None:
        self.state, self.annotations = state, annotations

    def due(self, epoch_ended: bool, done: bool) -> bool:
        """Whether to evaluate after the step just done: each `eval_every` epochs, and at the end."""
        if self.annotations is None:
            return False
        every, epoch = self.state.run.eval_every, self.state.epochs_done(self.state.step)
        return done or bool(every and epoch_ended and epoch % every == 0)

    def overdue(self) -> bool:
        """Whether the checkpoint gone on from was saved on request, just before an evaluation."""
        state = self.state
        ended = state.step > 0 and state.epochs_done(state.step) > state.epochs_done(state.step - 1)
        return self.due(ended, state.step == state.total) and all(e["step"] != state.step for e in state.history)

    def __call__(self, workdir: Path) -> tuple[dict[str, Any], str]:
        """Evaluates on all ranks together and keeps the weights if they are the best. The log record, and one line."""
        state, experiment = self.state, self.state.experiment
        assert self.annotations is not None
        began = time.perf_counter()
        task = TASKS[experiment.task]
        result = task.judge(
            state.weights, self.annotations, transform=task.eval_transform(experiment.input),
            postprocess=experiment.postprocess, output=experiment.output, device=state.device,
            precision=state.run.precision, batch_size=max(1, experiment.optim.batch_size // world_size()),
            workers=state.run.workers,
        )
        state.seconds_evaluating += time.perf_counter() - began
        metric = result.metric
        found = {"step": state.step, "epoch": state.epoch,
                 metric: result.score if math.isfinite(result.score) else None}
        state.history.append(found)
        better = found[metric] is not None and (not state.best or found[metric] > state.best[metric])
        if better:
            state.best = found
            if rank() == 0:
                save_best(workdir, state.weights, {name: str(value) for name, value in found.items()})
        record = {"step": state.step, "epoch": state.epoch, **result.to_json()}
        text = result.summary() if state.step == state.total else result.line()
        return record, f"step {state.step} epoch {state.epoch:.2f} {text}{' (best so far)' if better else ''}"
