"""The training loop, read from top to bottom.

No registry of hooks: `on_step` and `on_epoch` are called with the state, and `step` replaces what happens between a
batch and its losses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bifocals.data import train_stream
from bifocals.objective import Losses
from bifocals.structures import Batch, Reporting, Scheduled, rank, world_size

from .distributed import joined
from .experiment import Experiment
from .optimizer import gradient_norm, set_learning_rate
from .provenance import Provenance
from .run import Run
from .session import open_session
from .state import State
from .stop import Interrupted, StopSignal
from .task import TASKS
from .validation import Validation
from .window import Window

Step = Callable[[State, Batch], Losses]


def supervise(state: State, batch: Batch) -> Losses:
    """The step that `fit` takes where it is given no other: network, then objective in float32.

    The network alone runs under autocast: a loss sums over some ten thousand priors, more than bfloat16 can add up.
    """
    with torch.autocast(state.device.type, torch.bfloat16, enabled=state.run.precision == "bf16"):
        outputs = state.forward(batch.images, batch.targets)
    return state.objective(in_float32(outputs), batch.targets)


def fit(
    experiment: Experiment,
    run: Run,
    provenance: Provenance | None = None,
    on_step: Callable[[State], None] | None = None,
    on_epoch: Callable[[State], None] | None = None,
    step: Step = supervise,
) -> Path:
    """Trains an experiment and returns its work directory: run.json, log.jsonl, checkpoints/, best/.

    provenance: the recipe behind the experiment, so that `load` can build it again. on_step: called after each
    optimizer step, before it is logged. on_epoch: called after each pass over the training set, before it is
    evaluated. step: from a micro-batch on the device to its losses, whose total `fit` goes backward from.

    Under torchrun all processes call it alike. SIGTERM and SIGINT: the step is finished, a checkpoint is saved and
    `Interrupted` raised, which ends the process with exit code 75; `Run(resume="auto")` goes on, on a CPU bit for bit
    (with as many threads and processes as before; CUDA's own kernels may add up in another order at each call).

    ValueError: values that cannot be run, a work directory that holds another run. FloatingPointError: a loss that is
    not finite, with image ids and raw losses. OSError: a checkpoint that cannot be written. In each case the
    checkpoints saved before stay as they are.
    """
    with (
        joined(run.device) as device,
        open_session(experiment, run, provenance, device) as session,
        StopSignal() as stop,
        loading(session.state, stop) as batches,
    ):
        state, log, optim = session.state, session.log, experiment.optim
        validation = Validation(state, session.validation)
        window = Window(optim.batch_size, stop.control)
        parts = (state.objective, *state.network.modules())
        clocks = [part for part in parts if isinstance(part, Scheduled)]
        reporters = [part for part in parts if isinstance(part, Reporting)]
        parameters = [p for p in state.network.parameters() if p.requires_grad]
        reading_is_free = device.type == "cpu"
        session.restore_random()
        if validation.overdue():
            log.evaluation(*validation(session.workdir))
            session.save(stop.control)
        window.start()

        for batch in batches:
            # Clock: what changes with time is a function of the step.
            stop.ask()
            learning_rate = set_learning_rate(state.optimizer, optim, state.step, state.total)
            for part in clocks:
                part.set_step(state.step, state.total)

            # Batch, step, backward: gradients travel between processes once, with the last micro-batch.
            for micro, last in micro_batches(batch, run.accumulate):
                with communicating(state, last):
                    losses = step(state, micro.to(device))
                    (losses.total / run.accumulate).backward()
                window.add_micro(losses)
            state.losses = Losses({n: v.detach() for n, v in losses.raw.items()},
                                  {n: v.detach() for n, v in losses.weighted.items()})

            # Optimizer.
            norm = gradient_norm(parameters)
            raw = window.add_step(state.step + 1, batch.image_ids, norm)
            if reading_is_free:
                window.check_last(session.workdir)
            if optim.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, optim.clip_norm, norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
            if state.ema is not None:
                state.ema.update_parameters(state.network)
            state.step += 1

            # Observe: balancers see the losses of the whole step, the same on all processes.
            state.objective.observe(raw)
            epoch_ended = state.epochs_done(state.step) > state.epochs_done(state.step - 1)
            if on_step is not None:
                on_step(state)
            if on_epoch is not None and epoch_ended:
                on_epoch(state)

            # Log. Reading the window raises for a loss that was not finite, so nothing is evaluated or saved after one.
            done, stopping = state.step == state.total, stop.agreed()
            judging = validation.due(epoch_ended, done) and not (stopping and not done)
            saving = done or stopping or (state.step % run.save_every == 0 if run.save_every else epoch_ended)
            if judging or saving or state.step % run.log_every == 0:
                record, seconds = window.read(session.workdir)
                state.seconds += seconds
                told = {n: v for part in reporters for n, v in part.scheduled().items()}
                scheduled: dict[str, Any] = {"scheduled": told} if told else {}
                # All that balancers have finished since the last record, so a checkpoint never has any left to tell.
                windows = {"windows": found} if (found := state.objective.drain()) else {}
                log.train({"step": state.step, "epoch": state.epoch, "lr": learning_rate, **record, **scheduled,
                           **windows}, seconds)
            if judging or saving:
                window.pause()

            # Evaluate.
            if judging:
                try:
                    log.evaluation(*validation(session.workdir))
                except RuntimeError:
                    if not stop.requested or world_size() > 1:
                        raise
                    # The signal went to the whole group and ended the loader's workers: the resumed run evaluates.
                    done, stopping, saving = False, True, True

            # Save.
            if saving:
                session.save(stop.control)
            if stopping and not done:
                raise Interrupted
            window.start()
        session.finish()
        return session.workdir


@contextmanager
def loading(state: State, stop: StopSignal) -> Iterator[Iterator[Batch]]:
    """The batches still to come. The loader's workers start here, out of reach of signals, and end with the context."""
    experiment, run = state.experiment, state.run
    transform = TASKS[experiment.task].train_transform(experiment.input)
    stream = iter(train_stream(
        state.annotations, transform, batch_size=experiment.optim.batch_size, seed=run.seed,
        first_step=state.step, total_steps=state.total, workers=run.workers, rank=rank(), world_size=world_size(),
        divisor=getattr(state.network, "size_divisor", 32), pin_memory=state.device.type == "cuda",
    ))
    try:
        with stop.shielded():
            first = [batch for batch in (next(stream, None),) if batch is not None]
        yield chain(first, stream)
    finally:
        # Left to the end of the process, workers that no signal reaches would be waited for without being told to end.
        if isinstance(stream, Generator):
            stream.close()


def micro_batches(batch: Batch, count: int) -> Iterator[tuple[Batch, bool]]:
    """`count` equal parts of a batch, and whether each is the last."""
    size = len(batch.targets) // count
    for i in range(count):
        part = slice(i * size, (i + 1) * size)
        yield Batch(batch.images[part], batch.targets[part]), i == count - 1


def communicating(state: State, last: bool) -> AbstractContextManager[object]:
    """The context of a forward and backward pass; gradients are only summed over processes in the last."""
    return nullcontext() if state.ddp is None or last else state.ddp.no_sync()


def in_float32(outputs: Any) -> Any:
    """The same records with all floating point tensors in float32; gradients flow through."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        return {name: in_float32(value) for name, value in outputs.items()}
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        changed = {f.name: in_float32(getattr(outputs, f.name)) for f in dataclasses.fields(outputs)}
        return dataclasses.replace(outputs, **changed)
    if type(outputs) in (list, tuple):
        return type(outputs)(in_float32(value) for value in outputs)
    return outputs
