"""Depression: in training, what a pyramid is surest of is made quieter (MAL, arXiv:1912.02252, section 3.3).

Letters: B images, C channels, H and W pixels of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Schedule = Literal[
    "none", "constant", "step", "symmetric", "linear", "triangular", "sigmoid", "reflected_sigmoid"
]


@dataclass(frozen=True)
class Depression:
    """How much is made quieter, and when. ValueError for values that cannot be meant.

    B1 to B9 of docs/methods/mal.md say where the paper is silent.
    """

    schedule: Schedule = "symmetric"
    """Share of depressed pixels over training: none; constant; step: six equal steps from 0 to `largest`; symmetric:
    up by such steps in the first half and down in the second (the published one). The others are in the release."""
    largest: float = 0.5
    """Largest share of the pixels of a level."""
    factor: float = 0.25
    """What depressed features are multiplied with; 0 erases them."""
    channels: bool = False
    """Also depress that share of the channels, those of the largest mean, whole. In the release, never published."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"Depression knows the schedules {get_args(Schedule)}, got {self.schedule!r}.")
        if not 0 <= self.largest <= 1 or not 0 <= self.factor <= 1:
            raise ValueError(f"Depression expected largest and factor in [0, 1], got {self.largest} and "
                             f"{self.factor}.")

    def ratio(self, t: int, total: int) -> float:
        """psi: the share of depressed pixels in step `t` of `total`, from 1 (arXiv:1912.02252, Eq. 7 and Table 1c).

        The stages of the stepped schedules are integer arithmetic: a stage ends with the same step on any machine.
        """
        done = t / total
        match self.schedule:
            case "none":
                share = 0.0
            case "constant":
                share = 1.0
            case "step":
                share = min(5, 6 * t // total) / 5
            case "symmetric":
                stage = min(11, 12 * t // total)
                share = min(stage, 11 - stage) / 5
            case "linear":
                share = done
            case "triangular":
                share = min(2 * done, 2 - 2 * done)
            case "sigmoid":
                share = _sigmoid(done)
            case "reflected_sigmoid":
                share = _sigmoid(min(done, 1 - done))
        return self.largest * share


def _sigmoid(done: float) -> float:
    return 1 / (1 + math.exp(-10 * (done - 0.5)))


@torch.no_grad()
def loud(level: Float[Tensor, "B C H W"], ratio: float) -> Bool[Tensor, "B 1 H W"]:
    """The floor(ratio * H * W) pixels of each image with the largest activation sum_c w_c U_c, w_c the mean of U_c.

    Exactly so many, also where activations are equal. Padding takes part, as in the release.
    """
    level = level.detach().float()
    batch, _, height, width = level.shape
    count = int(ratio * height * width)
    activation = torch.einsum("bc,bchw->bhw", level.mean(dim=(2, 3)), level).flatten(1)  # [B, HW]
    mask = torch.zeros_like(activation, dtype=torch.bool)
    mask.scatter_(1, activation.topk(count, dim=1).indices, True)
    return mask.view(batch, 1, height, width)


@torch.no_grad()
def loud_channels(level: Float[Tensor, "B C H W"], ratio: float) -> Bool[Tensor, "B C 1 1"]:
    """The floor(ratio * C) channels of each image with the largest mean."""
    mean = level.detach().float().mean(dim=(2, 3))  # [B, C]
    mask = torch.zeros_like(mean, dtype=torch.bool)
    mask.scatter_(1, mean.topk(int(ratio * mean.shape[1]), dim=1).indices, True)
    return mask[:, :, None, None]


class Depressor(nn.Module):
    """Pyramid levels -> the same, with the loudest pixels of each level and image multiplied by `factor`.

    V = U where kept and factor * U where depressed, which is Eq. 7 divided by its value without depression, for M = 3;
    gradients are scaled alike, and none flows through the choice. It reads the share psi, set by the engine's clock,
    and has neither parameters nor buffers. In evaluation, and before the clock was ever set, it returns its input.
    """

    def __init__(self, depression: Depression = Depression()) -> None:
        super().__init__()
        self.depression = depression
        self.ratio = 0.0

    def set_step(self, step: int, total: int) -> None:
        """The engine counts finished steps from 0, the schedules are in steps from 1: t = step + 1."""
        self.ratio = self.depression.ratio(step + 1, total)

    def scheduled(self) -> dict[str, float]:
        """psi of the current step."""
        return {"depression": self.ratio}

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        if not self.training:
            return list(levels)
        return self._depress(levels)

    @torch.compiler.disable
    def _depress(self, levels: Sequence[Tensor]) -> list[Tensor]:
        # Outside of compiled graphs, which would be built anew for every psi.
        if self.ratio == 0:
            return list(levels)
        with torch.autocast(levels[0].device.type, enabled=False):
            masks = [loud(level, self.ratio) for level in levels]
            if self.depression.channels:
                masks = [m | loud_channels(x, self.ratio) for m, x in zip(masks, levels, strict=True)]
        return [torch.where(m, x * self.depression.factor, x) for m, x in zip(masks, levels, strict=True)]
