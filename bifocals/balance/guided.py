"""Guided Loss: "Is Heuristic Sampling Necessary in Training Deep Object Detectors?", arXiv:1909.04868."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import sum_over_ranks

from .sides import Sides, sum_of

GuidedVariant = Literal["a", "c"]
LEAST = 1e-6


class Guided(nn.Module):
    """Gives the class side the value of the box side: its weight is their ratio, without gradient.

    variant: "a", of the RPN: w = L_reg / L_cls in each step, so the class term is worth L_reg and its gradient is that
    of L_reg ln L_cls. "c", of the one-stage detectors: w = mean of the other losses / L_cls in the first `settle`
    steps, then for good what it was in the last of them. Its learned sigmas are left out, as an objective learns
    nothing; so are the companions of both, initial biases and score thresholds.

    most: largest ratio. faithful: without the guard, as ALWA's Table 4 has it. A step without positives, whose box
    side is exactly 0, then has a weight that is not a number (the mean over none); a class side of exactly 0 has an
    infinite one, and 0 times that is not a number either: in both cases the engine stops the run at this step and
    names its images. With the guard such a step has the ratio of the last good one, 1 before there is any.
    sides: which losses are which.

    The ratio is that of the whole batch: the sums of all ranks, one reduction of two numbers in each call, so it is
    equal on all ranks. With accumulation each micro-batch has its own. What is observed is averaged already. In eval
    mode nothing changes.
    """

    ratio: Tensor
    steps: Tensor

    def __init__(
        self,
        variant: GuidedVariant = "a",
        *,
        settle: int = 100,
        most: float = 10.0,
        faithful: bool = False,
        sides: Sides = Sides(),
    ) -> None:
        super().__init__()
        if variant not in get_args(GuidedVariant):
            raise ValueError(f"Guided knows the variants {get_args(GuidedVariant)}, got {variant!r}.")
        if settle < 1 or not most > 0:
            raise ValueError(f"Guided expected settle of at least 1 step and a positive most, got {settle} and {most}.")
        self.variant, self.settle, self.most, self.faithful, self.sides = variant, settle, most, faithful, sides
        self.register_buffer("ratio", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss under its base weight, the class side times the ratio."""
        with torch.no_grad():
            ratio = self._ratio(sum_over_ranks(self._leading(raw)))
            if self.variant == "c":
                ratio = torch.where(self.steps < self.settle, ratio, self.ratio)
        return self.sides.weigh(raw, ratio, 1.0)

    @torch.no_grad()
    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Keeps the ratio of the step: the last good one, and what variant c stays at."""
        if not self.training:
            return
        values = self._leading(raw)
        taken = values.isfinite().all()
        if self.variant == "c":
            taken = taken & (self.steps < self.settle)
        self.ratio = torch.where(taken, self._ratio(values), self.ratio)
        self.steps = self.steps + taken

    def _leading(self, raw: Mapping[str, Tensor]) -> Float[Tensor, "3"]:
        """Class side, what leads it, and the box side."""
        cls, reg = self.sides.based(raw)
        boxes = sum_of(reg)
        leads = boxes if self.variant == "a" else self.sides.mean_of_others(raw)
        return torch.stack([sum_of(cls), leads, boxes])

    def _ratio(self, values: Float[Tensor, "3"]) -> Float[Tensor, ""]:
        cls, leads, boxes = values.unbind()
        if self.faithful:
            return torch.where(boxes == 0, torch.nan, leads / cls)
        good = values.isfinite().all() & (boxes > 0)
        return torch.where(good, (leads / cls.clamp(min=LEAST)).clamp(max=self.most), self.ratio)

    def scheduled(self) -> dict[str, float]:
        """The ratio of the last step."""
        return {"ratio": float(self.ratio)}
