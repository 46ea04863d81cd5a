"""How fast batches go through: images a second, and how long a batch takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bifocals.structures import world_size


@dataclass(frozen=True)
class Speed:
    """Images a second of all processes together, and milliseconds of a batch, median and 90th percentile.

    NaN where there was a single batch. protocol: what was timed, in a sentence.
    """

    images_per_second: float
    p50_ms: float
    p90_ms: float
    protocol: str

    def to_json(self) -> dict[str, float | str | None]:
        values = {name: getattr(self, name) for name in ("images_per_second", "p50_ms", "p90_ms")}
        return {**{n: None if math.isnan(v) else v for n, v in values.items()}, "protocol": self.protocol}


class Stopwatch:
    """Times batches, without the first one, which pays for warming up."""

    def __init__(self) -> None:
        self.laps: list[tuple[int, float]] = []
        self.warm = False
        self.began = 0.0

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self, images: int) -> None:
        """Call it when the results are on the host: the device has finished then."""
        if self.warm:
            self.laps.append((images, time.perf_counter() - self.began))
        self.warm = True


def speed(laps: Sequence[Sequence[tuple[int, float]]], protocol: str) -> Speed:
    """Of the laps of each process. Processes may stop at different times: their rates add up, their seconds do not."""
    rates = [sum(n for n, _ in mine) / sum(s for _, s in mine) for mine in laps if mine]
    seconds = sorted(s for mine in laps for _, s in mine)
    if not seconds:
        return Speed(math.nan, math.nan, math.nan, protocol)
    p50, p90 = (1000 * seconds[min(len(seconds) - 1, int(q * len(seconds)))] for q in (0.5, 0.9))
    return Speed(sum(rates), p50, p90, protocol)


def protocol(device: torch.device, precision: str, batch_size: int, steps: str) -> str:
    """The sentence. steps: what happens to a batch while the clock runs."""
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return (f"{steps} of batches of {batch_size} in {precision} on {world_size()} x {place}, without reading images, "
            "first batch left out")
