"""A mean that runs over the steps: the state of losses that compare a pair with the pairs before it.

Letters: M pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import sum_over_ranks


class RunningMean(nn.Module):
    """mean <- (1 - momentum) * mean + momentum * (mean of the values of all ranks).

    `update` is called once a forward; it does nothing in eval mode or without any value. All ranks must call it, also
    those without values.
    """

    value: Tensor

    def __init__(self, momentum: float = 0.01, initial: float = 1.0) -> None:
        super().__init__()
        if not 0 <= momentum <= 1 or initial <= 0:
            raise ValueError(f"RunningMean expected a momentum from 0 to 1 and an initial value above 0, "
                             f"got {momentum}, {initial}.")
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(float(initial)))

    @torch.no_grad()
    def update(self, values: Float[Tensor, "M"]) -> None:
        if self.training:
            self.value.copy_(self.after(values))

    @torch.no_grad()
    def after(self, values: Float[Tensor, "M"]) -> Tensor:
        """The mean that `update` with these values would leave; it stays as it is."""
        if not self.training:
            return self.value.clone()
        total, count = sum_over_ranks(torch.stack([values.sum(), values.new_tensor(float(len(values)))])).unbind()
        mixed = (1 - self.momentum) * self.value + self.momentum * total / count.clamp(min=1)
        return torch.where(count > 0, mixed, self.value)
