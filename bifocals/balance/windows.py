"""The finished windows of a balancer, kept on the device until the log asks for them.

Letters: K values of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

COUNTS = ("window", "step")


class Windows(nn.Module):
    """Rows of numbers, one for each finished window, read once a log period and not once a step.

    names: of the values of a row. apart: the least number of calls of `push` from one finished window to the next.
    Only the device knows when a window ends. The host takes a snapshot of the last row each `apart` calls instead, so
    it misses none. Rows that were not read yet are no part of the state: the engine reads them before it saves.
    """

    last: Tensor
    count: Tensor
    told: Tensor

    def __init__(self, names: Sequence[str], apart: int) -> None:
        super().__init__()
        self.names, self.apart = ("window", *names), apart
        self.register_buffer("last", torch.full((len(names),), torch.nan))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("told", torch.zeros((), dtype=torch.int64))
        self._snapshots: list[Tensor] = []
        self._calls = 0
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def push(self, finished: Bool[Tensor, ""], row: Float[Tensor, "K"]) -> None:
        """Takes `row` if a window is finished; the host does not learn which."""
        self.last = torch.where(finished, row, self.last)
        self.count = self.count + finished
        self._calls += 1
        if self._calls % self.apart == 0:
            self._snapshots.append(self._snapshot())

    def drain(self) -> list[dict[str, float]]:
        """The rows finished since the last call, in order, with their number from 1 as `window`. Reads the device."""
        told = int(self.told)
        rows = {}
        for values in torch.stack([*self._snapshots, self._snapshot()]).tolist():
            if values[0] > told:
                rows[int(values[0])] = {n: int(v) if n in COUNTS else v
                                        for n, v in zip(self.names, values, strict=True)}
        self.told = self.count.clone()
        self._forget()
        return [rows[number] for number in sorted(rows)]

    def _snapshot(self) -> Tensor:
        return torch.cat([self.count.to(self.last.dtype)[None], self.last])

    def _forget(self) -> None:
        self._snapshots.clear()
        self._calls = 0
