"""The steps since the last look at the device: their losses, and whether all of them were finite.

Reading a loss makes the host wait for the device, so losses stay there and are read together, once a log period.
Letters: S steps of the window, K losses, W ranks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bifocals.objective import Losses
from bifocals.structures import rank

from .distributed import gather_over_ranks, mean_over_ranks
from .durable import replace_file


@dataclass
class Window:
    """Losses of the steps since the last `read`, on the device, with the ids of their images."""

    images_per_step: int
    """Of all ranks."""
    control: torch.distributed.ProcessGroup | None = None
    _names: tuple[str, ...] = ()
    _micro: list[Tensor] = field(default_factory=list)
    _steps: list[tuple[int, list[int], Tensor, Tensor]] = field(default_factory=list)
    _seconds: float = 0.0
    _since: float | None = None

    def start(self) -> None:
        """Starts the clock if it stands; `pause` stops it, so that evaluations and checkpoints do not count."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def add_micro(self, losses: Losses) -> None:
        """Takes the losses of a micro-batch."""
        names = tuple(losses.raw)
        if self._names and names != self._names:
            raise ValueError(f"fit expected the same losses in each step, got {list(names)} after {list(self._names)}.")
        self._names = names
        values = [*losses.raw.values(), *(losses.weighted[n] for n in names)]
        self._micro.append(torch.stack([v.detach().float() for v in values]))

    def add_step(self, step: int, image_ids: list[int], grad_norm: Tensor) -> dict[str, Tensor]:
        """Closes a step: means over its micro-batches and all ranks. Returns the raw losses, equal on all ranks."""
        own = torch.stack(self._micro).mean(dim=0)
        self._micro = []
        mean = mean_over_ranks(own)
        # The norm is of gradients that DDP has averaged, so it is equal on all ranks already.
        self._steps.append((step, image_ids, own, torch.cat([mean, grad_norm.detach().float().reshape(1)])))
        return dict(zip(self._names, mean, strict=False))

    def __len__(self) -> int:
        return len(self._steps)

    def check_last(self, workdir: Path) -> None:
        """Checks the last step alone; for devices where reading is free."""
        if not self._steps[-1][3].isfinite().all():
            self._fail(self._steps[-1], workdir)

    def read(self, workdir: Path) -> tuple[dict[str, Any], float]:
        """Means over the window as a log record, and its seconds; then empties it.

        FloatingPointError, on all ranks, if a loss or the norm of the gradients was not finite: the first such step is
        named with its images and raw losses, and `nonfinite.json` is written.
        """
        values = torch.stack([s[3] for s in self._steps]).cpu()  # [S, 2K + 1]
        bad = (~values.isfinite()).any(dim=1).nonzero()
        if len(bad):
            self._fail(self._steps[int(bad[0])], workdir)
        running = self._since is not None
        self.pause()
        seconds = self._seconds
        mean, count = values.double().mean(dim=0).tolist(), len(self._names)
        record = {
            "steps": len(self._steps),
            "loss": sum(mean[count:-1]),
            "raw": dict(zip(self._names, mean[:count], strict=True)),
            "weighted": dict(zip(self._names, mean[count:-1], strict=True)),
            "grad_norm": mean[-1],
            "images_per_s": len(self._steps) * self.images_per_step / max(seconds, 1e-9),
        }
        self._steps, self._seconds = [], 0.0
        if running:
            self.start()
        return record, seconds

    def _fail(self, found: tuple[int, list[int], Tensor, Tensor], workdir: Path) -> None:
        step, image_ids, own, mean = found
        ids = gather_over_ranks(torch.tensor(image_ids), self.control)  # [W, B]
        losses = gather_over_ranks(own.cpu(), self.control)  # [W, 2K]
        count = len(self._names)
        ranks: list[dict[str, Any]] = [
            {"image_ids": ids[r].tolist(), "raw": _plain(self._names, losses[r, :count]),
             "weighted": _plain(self._names, losses[r, count:])}
            for r in range(len(ids))
        ]
        norm = repr(float(mean[-1]))
        if rank() == 0:
            report = {"step": step, "grad_norm": norm, "ranks": ranks}
            replace_file(workdir / "nonfinite.json", json.dumps(report, indent=1).encode())
        # The rank whose own losses are not finite; where all are, the gradients were not and any image may be why.
        guilty = [r for r in range(len(ids)) if not losses[r].isfinite().all()] or list(range(len(ids)))
        images = [i for r in guilty for i in ranks[r]["image_ids"]]
        raise FloatingPointError(
            f"The losses of step {step} expected finite numbers, got raw "
            f"{'; '.join(_line(ranks[r]['raw']) for r in guilty)} and a gradient norm of {norm} on images {images}; "
            f"{workdir / 'nonfinite.json'} has the details, and the checkpoints are from before."
        )


def _plain(names: tuple[str, ...], values: Tensor) -> dict[str, float | str]:
    """Numbers as JSON can hold them: what is not finite becomes a word."""
    return {n: v if abs(v) < float("inf") else repr(v) for n, v in zip(names, values.tolist(), strict=True)}


def _line(raw: Mapping[str, float | str]) -> str:
    return ", ".join(f"{name} {v if isinstance(v, str) else format(v, '.4g')}" for name, v in raw.items())
