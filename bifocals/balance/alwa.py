"""ALWA: adaptive loss weight adjustment, "Revisiting the Loss Weights in Anchor-based Detection", Algorithm 1.

Letters: C steps of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .sides import Sides
from .windows import Windows

Stat = Literal["mean+std", "std"]
ALWARule = Literal["paper", "release", "raw"]
First = Literal["window", "i0"]
OnLe = Literal["keep", "reset"]

TIE = 1e-5
"""A side leads the other by more than this part of it. Where weighted losses are equal, as after each update of the
rule "paper" on losses that do not change, rounding alone would decide, and send alpha to 1."""


class ALWA(nn.Module):
    """Weighs the class side of a branch by how much it leads the box side in the last C steps.

    The weights are cls = lambda0 alpha and reg = lambda0 (Eq. 2). After each window, with c and r the statistics of
    both sides, alpha becomes r / c where c > r (line 14). The step that ends a window still has the old alpha.

    stat: mean + standard deviation (ALWA_1) or standard deviation alone (ALWA_2). rule: what c and r are taken of.
    "paper": the weighted losses, as Algorithm 1 says; alpha then becomes rho / alpha, with rho the ratio of the raw
    losses, so it swings between rho and 1 or stays for good (docs/methods/alwa.md). "release": the same, but the new
    weight of the class side is r / c *without* lambda0, so alpha is that weight itself and starts at lambda0. "raw":
    the losses before their weights; alpha follows rho.

    window: C. lambda0: see above. ddof: 1 divides the variance by C - 1 (the released code), 0 by C. first: when the
    first update comes. "window": after C steps, as all others (the default of release and raw). "i0": already after
    the first step, as i % C == 0 says, whose sample then is a window of its own (the default of paper); its standard
    deviation is not a number with ddof 1, and alpha stays. on_le: where c <= r, alpha stays (keep) or is as in the
    beginning (reset). alpha_min: least alpha; 0 lets a window without positives end the class side for good.
    start_after: steps that are not recorded, a warm-up. updates: changes of alpha after which it is fixed; None never
    fixes it, 1 is the constant that the first window asks for. sides: which losses are which.

    DDP, accumulation: `observe` is shown the mean over micro-batches and ranks of each step, which the engine has for
    its log anyway. So there is one window, no reduction of its own, and alpha is equal on all ranks. It is the
    standard deviation of the mean over ranks, not of all their losses.

    A record that is not finite is left out and does not count as a step of the window. In eval mode nothing changes.
    Nothing here waits for the device but `scheduled` and `drain`, which the log calls.

    ValueError: values that cannot be meant; a window of 1 has no standard deviation with ddof 1.
    """

    alpha: Tensor
    record: Tensor
    fill: Tensor
    steps: Tensor
    changes: Tensor
    _place: Tensor

    def __init__(
        self,
        stat: Stat = "mean+std",
        rule: ALWARule = "paper",
        window: int = 100,
        *,
        lambda0: float = 1.0,
        ddof: Literal[0, 1] = 1,
        first: First | None = None,
        on_le: OnLe = "keep",
        alpha_min: float = 0.01,
        start_after: int = 0,
        updates: int | None = None,
        sides: Sides = Sides(),
    ) -> None:
        super().__init__()
        for name, value, known in (("stat", stat, Stat), ("rule", rule, ALWARule), ("on_le", on_le, OnLe)):
            if value not in get_args(known):
                raise ValueError(f"ALWA knows {name} {get_args(known)}, got {value!r}.")
        if first is not None and first not in get_args(First):
            raise ValueError(f"ALWA knows first {get_args(First)}, got {first!r}.")
        if ddof not in (0, 1):
            raise ValueError(f"ALWA expected ddof 0 or 1, got {ddof}.")
        if window < 1 + ddof:
            raise ValueError(f"ALWA expected a window of at least {1 + ddof} steps with ddof {ddof}, got {window}.")
        if not 0 < lambda0 < float("inf"):
            raise ValueError(f"ALWA expected a positive lambda0, got {lambda0}.")
        if not 0 <= alpha_min <= 1 or start_after < 0 or (updates is not None and updates < 0):
            raise ValueError(f"ALWA expected alpha_min in [0, 1], start_after >= 0 and updates >= 0 or None, got "
                             f"{alpha_min}, {start_after} and {updates}.")
        self.stat, self.rule, self.window, self.lambda0, self.ddof = stat, rule, window, lambda0, ddof
        self.first = first or ("i0" if rule == "paper" else "window")
        self.on_le, self.alpha_min, self.start_after, self.updates = on_le, alpha_min, start_after, updates
        self.sides = sides
        self.start = lambda0 if rule == "release" else 1.0
        self.register_buffer("alpha", torch.tensor(self.start))
        self.register_buffer("record", torch.zeros(window, 2))
        self.register_buffer("fill", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("changes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("_place", torch.arange(window), persistent=False)
        self.windows = Windows(("step", "alpha", "rho", "cls_mean", "cls_std", "reg_mean", "reg_std"), window)

    def weights(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The weights of class side and box side in the next step."""
        cls = self.alpha if self.rule == "release" else self.alpha * self.lambda0
        return cls, torch.full_like(self.alpha, self.lambda0)

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss under its base weight and the weight of its side."""
        cls, reg = self.weights()
        return self.sides.weigh(raw, cls, reg)

    @torch.no_grad()
    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Records a step and, where it ends a window, sets alpha for the next (Algorithm 1, lines 7 to 16)."""
        if not self.training:
            return
        values = self.sides.totals(raw)  # [2]
        self.steps = self.steps + 1
        taken = values.isfinite().all() & (self.steps > self.start_after)
        here = (self._place == self.fill) & taken  # [C]
        self.record = torch.where(here[:, None], values, self.record)
        fill = self.fill + taken
        finished = taken & (fill == self._length())
        self.fill = torch.where(finished, 0, fill)

        # The window holds raw losses. Their weights do not change inside of a window, so those of the weighted losses
        # are the same times the weight; lambda0 is on both sides of the comparison and left out, but for the release.
        mean, std = self._mean_and_std(fill)
        found = mean + std if self.stat == "mean+std" else std
        cls, reg = found.unbind()
        rho = reg / cls
        if self.rule != "raw":
            cls = cls * self.alpha
        if self.rule == "release":
            reg = reg * self.lambda0
        leads = cls > reg * (1 + TIE)  # False for what is not a number
        otherwise = self.alpha if self.on_le == "keep" else torch.full_like(self.alpha, self.start)
        alpha = torch.where(leads, (reg / cls).clamp(min=self.alpha_min), otherwise)
        if self.updates is not None:
            alpha = torch.where(self.changes < self.updates, alpha, self.alpha)
        self.alpha = torch.where(finished, alpha, self.alpha)
        self.changes = self.changes + (finished & leads)
        row = torch.stack([self.steps.float(), self.alpha, rho, mean[0], std[0], mean[1], std[1]])
        self.windows.push(finished, row)

    def _length(self) -> Tensor | int:
        """Records that end the window."""
        if self.first == "window":
            return self.window
        return torch.where(self.windows.count == 0, 1, self.window)

    def _mean_and_std(self, fill: Tensor) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]]:
        """Of the first `fill` records; a single one has no standard deviation with ddof 1 and it is not a number."""
        valid = (self._place < fill)[:, None]  # [C, 1]
        mean = (self.record * valid).sum(dim=0) / fill
        square = ((self.record - mean).square() * valid).sum(dim=0)
        return mean, (square / (fill - self.ddof)).sqrt()

    def scheduled(self) -> dict[str, float]:
        """alpha for the next step, and rho of the last window once there is one."""
        alpha, rho = torch.stack([self.alpha, self.windows.last[2]]).tolist()
        return {"alpha": alpha} | ({"rho": rho} if rho == rho else {})

    def drain(self) -> list[dict[str, float]]:
        """The windows finished since the last call: last step, alpha from then on, rho, mean and deviation of the raw
        losses (under the base weights) of both sides."""
        return self.windows.drain()
