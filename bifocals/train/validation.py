"""Evaluation during training, and what it makes the best weights."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from bifocals.data import Annotations, eval_transform
from bifocals.evaluate import Evaluation, evaluate
from bifocals.structures import rank, world_size

from .state import State
from .weights import save_best

METRIC = "AP"


class Validation:
    """Evaluates the weights of a run on the val split; without one it is never due."""

    def __init__(self, state: State, annotations: Annotations | None) -> None:
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
        result = evaluate(
            state.weights, self.annotations, transform=eval_transform(experiment.input),
            postprocess=experiment.postprocess, output=experiment.output, nms="default", device=state.device,
            precision=state.run.precision, batch_size=max(1, experiment.optim.batch_size // world_size()),
            workers=state.run.workers,
        )
        state.seconds_evaluating += time.perf_counter() - began
        found = {"step": state.step, "epoch": state.epoch, METRIC: result.ap if math.isfinite(result.ap) else None}
        state.history.append(found)
        better = found[METRIC] is not None and (not state.best or found[METRIC] > state.best[METRIC])
        if better:
            state.best = found
            if rank() == 0:
                save_best(workdir, state.weights, {name: str(value) for name, value in found.items()})
        record = {"step": state.step, "epoch": state.epoch, **result.to_json()}
        text = result.summary() if state.step == state.total else _line(result)
        return record, f"step {state.step} epoch {state.epoch:.2f} {text}{' (best so far)' if better else ''}"


def _line(result: Evaluation) -> str:
    """AP, and for an output without NMS what shows whether it needs one."""
    text = ", ".join(f"{name} {result.stats[name]:.4f}" for name in ("AP", "AP50", "AP75"))
    if result.with_nms is not None:
        text += f"; AP with NMS {result.with_nms.stats['AP']:.4f}"
    return f"{text}; duplicate rate {result.duplicate_rate:.4f}"
