"""A branch of the objective: one output of the network, its losses and their balancer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bifocals.structures import Balancer, Draining, Matched, Reporting, Scheduled, Target, Watching


class Branch(nn.Module, ABC):
    """What all branches share: the balancer, the clock and the report. `forward` is each kind's own.

    balance: weighs the losses; None leaves them as they are. source: the network output to read; None reads the output
    named like the branch. weight: a factor on the whole branch (DATE's lambda, arXiv:2211.13859, Eq. 1).
    """

    losses: Mapping[str, Any]
    """The losses by name, set by each kind."""

    def __init__(self, balance: Balancer | None, source: str | None, weight: float) -> None:
        super().__init__()
        self.balance = balance
        self.source = source
        self.weight = weight

    @abstractmethod
    def forward(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The raw losses of a batch by name."""

    @abstractmethod
    def parts(self) -> Iterator[object]:
        """Assigner, losses and what else may change with training time, but for the balancer."""

    def weigh(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weighted = dict(raw) if self.balance is None else self.balance(raw)
        return {name: loss * self.weight for name, loss in weighted.items()}

    def observe(self, raw: Mapping[str, Tensor]) -> None:
        if self.balance is not None:
            self.balance.observe(raw)

    def watch(self, matched: Matched) -> None:
        """Shows a balancer that looks at predictions the matched view, in training. A branch calls it *after* its
        losses: what the view computes without gradient it would keep for them."""
        if self.training and isinstance(self.balance, Watching):
            with torch.no_grad():
                self.balance.watch(matched)

    def drain(self) -> list[dict[str, float]]:
        """The stretches of steps that the balancer has summed up since the last call."""
        return self.balance.drain() if isinstance(self.balance, Draining) else []

    def set_step(self, step: int, total: int) -> None:
        for part in (*self.parts(), self.balance):
            if isinstance(part, Scheduled):
                part.set_step(step, total)

    def scheduled(self) -> dict[str, float]:
        """Where the parts that change with training time stand."""
        found: dict[str, float] = {}
        for part in (*self.parts(), self.balance):
            if isinstance(part, Reporting):
                found |= part.scheduled()
        return found
