"""The two sides that a balancer weighs against each other: what teaches classes and what teaches boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

CLS = ("cls",)
REG = ("box", "l1", "giou", "initial")
"""Names that our recipes give to losses of boxes."""


@dataclass(frozen=True)
class Sides:
    """Which losses of a branch are its class side and its box side, and the weights that the recipe gives them.

    cls, reg: names; a name stands for those that go on with "_" after it too, "box" for "box_fc". All other losses
    (quality, mask) are of neither side and keep their weight. base: weights by loss, 1 where none is named. A balancer
    sees losses that already have these weights, so that it never weighs what it has weighed; in Faster R-CNN all are
    1, which is the paper's case.

    ValueError at the first call if a base weight names a loss that the branch does not have, or if a side has none.
    """

    cls: tuple[str, ...] = CLS
    reg: tuple[str, ...] = REG
    base: Mapping[str, float] = field(default_factory=dict)

    def split(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The names of each side, in their order; either may be empty."""
        names = list(names)
        return [n for n in names if _stands(self.cls, n)], [n for n in names if _stands(self.reg, n)]

    def has(self, names: Iterable[str]) -> bool:
        """Whether losses of these names have both sides."""
        return all(self.split(names))

    def totals(self, raw: Mapping[str, Tensor]) -> Float[Tensor, "2"]:
        """The sums of both sides under the base weights, class side first: float32, without gradient."""
        return torch.stack([sum_of(side) for side in self.based(raw)])

    def based(self, raw: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The losses of each side under the base weights, without gradient."""
        cls, reg = self.split(raw)
        if not cls or not reg:
            raise ValueError(f"Sides expected losses of classes named {list(self.cls)} and of boxes named "
                             f"{list(self.reg)}, but the branch has losses {list(raw)}.")
        return [self._one(raw, n).detach() for n in cls], [self._one(raw, n).detach() for n in reg]

    def mean_of_others(self, raw: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The mean of all losses that are not of the class side, under the base weights, without gradient."""
        ours, _ = self.split(raw)
        others = [self._one(raw, n).detach() for n in raw if n not in ours]
        return sum_of(others) / len(others)

    def weigh(self, raw: Mapping[str, Tensor], cls: Tensor | float, reg: Tensor | float) -> dict[str, Tensor]:
        """Each loss under its base weight and the weight of its side."""
        unknown = sorted(set(self.base) - set(raw))
        if unknown:
            raise ValueError(f"Base weights name {unknown}, but the branch has losses {list(raw)}.")
        ours, theirs = self.split(raw)
        if not ours or not theirs:
            self.based(raw)  # says what is missing
        weighted = {}
        for name in raw:
            loss = self._one(raw, name)
            weighted[name] = loss * cls if name in ours else loss * reg if name in theirs else loss
        return weighted

    def _one(self, raw: Mapping[str, Tensor], name: str) -> Tensor:
        return raw[name] * self.base[name] if name in self.base else raw[name]


def sum_of(losses: list[Tensor]) -> Float[Tensor, ""]:
    """Their sum in float32: half precision has no room for the spread of small losses."""
    total = losses[0].float()
    for loss in losses[1:]:
        total = total + loss.float()
    return total


def _stands(known: tuple[str, ...], name: str) -> bool:
    return any(name == one or name.startswith(f"{one}_") for one in known)
