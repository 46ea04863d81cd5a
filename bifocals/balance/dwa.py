"""DWA: dynamic weight averaging, "End-to-End Multi-Task Learning with Attention", arXiv:1803.10704, Eq. 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .sides import Sides
from .windows import Windows

LEAST = 1e-12
RATIOS = (0.1, 10.0)


class DWA(nn.Module):
    """Gives the side whose loss falls slower the larger weight.

    With L(t) the mean loss of window t and w(t) = L(t - 1) / L(t - 2) for each side, the weights are
    lambda(t) = 2 softmax(w(t) / temperature); in the first two windows they are 1.

    window: steps of a window; the paper's is an epoch. faithful: the reading under which ALWA's Table 4 says
    "overflow": one step is one window, and the exponentials are taken as they are. Where one of them overflows (a ratio
    above 709.78 times the temperature in float64, 1419.6 by default, and above 88.72 times in float32; a side that was
    exactly 0 the step before has an infinite ratio), the weights are inf / inf: the next step's losses are not numbers,
    and the engine stops the run at that step and names its images. Otherwise ratios are kept in [0.1, 10] and the
    softmax cannot overflow. precision: of the exponentials. sides: which losses are which.

    One window of losses averaged over micro-batches and ranks, no reduction of its own, equal on all ranks. A record
    that is not finite is left out. In eval mode nothing changes.
    """

    total: Tensor
    fill: Tensor
    means: Tensor
    steps: Tensor
    current: Tensor

    def __init__(
        self,
        window: int = 100,
        *,
        temperature: float = 2.0,
        faithful: bool = False,
        precision: Literal["float32", "float64"] = "float64",
        sides: Sides = Sides(),
    ) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"DWA expected a window of at least 1 step, got {window}.")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"DWA expected a positive temperature, got {temperature}.")
        if precision not in ("float32", "float64"):
            raise ValueError(f"DWA knows the precisions float32 and float64, got {precision!r}.")
        self.window, self.temperature, self.faithful = 1 if faithful else window, temperature, faithful
        self.precision = torch.float64 if precision == "float64" else torch.float32
        self.sides = sides
        self.register_buffer("total", torch.zeros(2))
        self.register_buffer("fill", torch.zeros((), dtype=torch.int64))
        self.register_buffer("means", torch.ones(2, 2))  # of the last window and of the one before
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("current", torch.ones(2))
        self.windows = Windows(("step", "weight_cls", "weight_reg", "cls_mean", "reg_mean"), self.window)

    def weights(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The weights of class side and box side in the next step."""
        cls, reg = self.current.unbind()
        return cls, reg

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss under its base weight and the weight of its side."""
        return self.sides.weigh(raw, *self.weights())

    @torch.no_grad()
    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Adds a step to the window and, where it ends it, sets the weights for the next."""
        if not self.training:
            return
        values = self.sides.totals(raw)  # [2]
        self.steps = self.steps + 1
        taken = values.isfinite().all()
        total = torch.where(taken, self.total + values, self.total)
        fill = self.fill + taken
        finished = taken & (fill == self.window)
        mean = total / fill
        self.means = torch.where(finished, torch.stack([mean, self.means[0]]), self.means)
        self.total = torch.where(finished, 0.0, total)
        self.fill = torch.where(finished, 0, fill)
        known = finished & (self.windows.count >= 1)  # with this one there are two
        self.current = torch.where(known, self._weights(), self.current)
        self.windows.push(finished, torch.cat([self.steps.float()[None], self.current, mean]))

    def _weights(self) -> Float[Tensor, "2"]:
        last, before = self.means.to(self.precision)
        if self.faithful:
            speed = (last / before / self.temperature).exp()
            return 2 * (speed / speed.sum()).float()
        ratio = (last.clamp(min=LEAST) / before.clamp(min=LEAST)).clamp(*RATIOS)
        return 2 * (ratio / self.temperature).softmax(dim=0).float()

    def scheduled(self) -> dict[str, float]:
        """The weights of both sides in the next step."""
        cls, reg = self.current.tolist()
        return {"weight_cls": cls, "weight_reg": reg}

    def drain(self) -> list[dict[str, float]]:
        """The windows finished since the last call: last step, weights from then on, mean losses of both sides."""
        return self.windows.drain()
