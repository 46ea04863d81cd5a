"""A window of numbers noted step by step: the memory of parts that change with what they have seen.

Letters: N numbers of a window.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .ranks import sum_over_ranks


class History(nn.Module):
    """Holds `length` numbers; when it is full, it starts anew.

    A number is noted as its mean over ranks, so all ranks hold the same and all must call. NaN is nothing to note: it
    takes its place in the window, and `mean` and `median` leave it out. Nothing here waits for the device; numbers and
    their count are buffers.
    """

    values: Tensor
    count: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((length,), torch.nan))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def note(self, value: Float[Tensor, ""]) -> Bool[Tensor, ""]:
        """Whether the window is full with this number."""
        known = ~value.isnan()
        total, ranks = sum_over_ranks(torch.stack([torch.where(known, value, 0), known.to(value.dtype)])).unbind()
        length = len(self.values)
        place = self.count % length
        self.values.index_copy_(0, place[None], (total / ranks)[None].to(self.values.dtype))
        self.count += 1
        return self.count % length == 0

    def mean(self) -> Float[Tensor, ""]:
        """NaN where nothing was noted."""
        return self.values.nanmean()

    def median(self, upper: bool = False) -> Float[Tensor, ""]:
        """Of an even number the mean of the two in the middle, or the upper of them; NaN where nothing was noted."""
        known = (~self.values.isnan()).sum()
        ordered = self.values.sort().values  # NaN last
        high = ordered[(known // 2).clamp(max=len(ordered) - 1)]
        low = ordered[((known - 1) // 2).clamp(min=0)]
        return torch.where(known > 0, high if upper else (low + high) / 2, torch.nan)
