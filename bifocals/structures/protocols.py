"""The slots. A part fits a slot by its call alone: no base class, no registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from .match import Match, Matches
from .matched import Matched
from .outputs import DenseOutput, Prediction
from .priors import Priors
from .target import Target


class Assigner(Protocol):
    """Says which prior answers for which object of one image. Called without gradient."""

    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match: ...


@runtime_checkable
class BatchAssigner(Protocol):
    """An assigner that also treats a whole batch at once; it must give the same pairs as image by image."""

    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput) -> Matches: ...


class Loss(Protocol):
    """A scalar of the matched view, without a weight of its own. Stateful losses are modules."""

    def __call__(self, matched: Matched) -> Tensor: ...


class Balancer(Protocol):
    """Weighs the losses of a branch. `observe` is called once an optimizer step with the step's raw losses.

    A balancer with state is a module that keeps it in buffers, so that a checkpoint holds it.
    """

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def observe(self, raw: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Watching(Protocol):
    """A balancer that also looks at predictions: it is shown the matched view of each micro-batch in training, after
    the losses and without gradient."""

    def watch(self, matched: Matched) -> None: ...


@runtime_checkable
class Draining(Protocol):
    """A part that sums up stretches of steps: `drain` gives those finished since its last call, numbers by name.

    The engine calls it with every record of the log and so before every checkpoint: nothing is lost in between.
    """

    def drain(self) -> list[dict[str, float]]: ...


@runtime_checkable
class Scheduled(Protocol):
    """A part that changes with training time gets plain integers from the engine before each optimizer step.

    step: optimizer steps done before, so 0 first and total - 1 last.
    """

    def set_step(self, step: int, total: int) -> None: ...


@runtime_checkable
class Reporting(Protocol):
    """A part that changes and says where it stands, numbers by name: they are written to the log of the run."""

    def scheduled(self) -> Mapping[str, float]: ...
