"""The moving average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(AveragedModel):
    """torch's `AveragedModel` with an exponential decay, whose update never waits for the device.

    torch's own update sends its count to the device, which empties the queue of the GPU in each step. The first update
    copies the network, each later one moves by 1 - decay. Statistics of batch norms move like weights; integers, which
    have no mean, are copied. `n_averaged` counts the updates.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.requires_grad_(False)
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        ours = [*self.module.parameters(), *self.module.buffers()]
        theirs = [*model.parameters(), *model.buffers()]
        first = int(self.n_averaged) == 0
        moved = [] if first else [(own, new) for own, new in zip(ours, theirs, strict=True) if own.is_floating_point()]
        if moved:
            self._move([own for own, _ in moved], [new for _, new in moved], self.n_averaged)
        for own, new in zip(ours, theirs, strict=True):
            if first or not own.is_floating_point():
                own.copy_(new)
        self.n_averaged += 1
