"""What differs between detecting and segmenting: reading a set, preparing pictures, judging a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from bifocals.data import (
    eval_transform,
    has_map_split,
    has_split,
    map_eval_transform,
    map_train_transform,
    open_maps,
    open_split,
    train_transform,
)
from bifocals.evaluate import evaluate, evaluate_maps

from .experiment import TaskName


class Result(Protocol):
    """What an evaluation tells the engine. `score` of `metric` chooses the best weights; NaN where there is none."""

    @property
    def metric(self) -> str: ...

    @property
    def score(self) -> float: ...

    def to_json(self) -> dict[str, Any]: ...

    def line(self) -> str:
        """One line of the log."""
        ...

    def summary(self) -> str:
        """A small table for a terminal."""
        ...


@dataclass(frozen=True)
class Task:
    """The functions of a task; those of both tasks are called alike."""

    open_split: Callable[..., Any]
    has_split: Callable[..., bool]
    train_transform: Callable[[Any], Any]
    eval_transform: Callable[[Any], Any]
    judge: Callable[..., Result]


def judge_detector(network: nn.Module, annotations: Any, **options: Any) -> Result:
    return evaluate(network, annotations, nms="default", **options)


TASKS: Mapping[TaskName, Task] = {
    "detect": Task(open_split, has_split, train_transform, eval_transform, judge_detector),
    "segment": Task(open_maps, has_map_split, map_train_transform, map_eval_transform, evaluate_maps),
}
