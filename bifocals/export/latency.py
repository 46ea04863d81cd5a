"""How long a call takes, and under which conditions that was measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def latency_ms(
    calls: Mapping[str, Callable[[], object]], *, runs: int = 20, warm_up: int = 3
) -> dict[str, dict[str, float]]:
    """p50 and p90 in milliseconds of each call. The calls take turns: a busy machine is busy for all of them."""
    if runs < 1 or warm_up < 0:
        raise ValueError(f"latency_ms expected at least 1 run and no negative warm-up, got {runs} and {warm_up}.")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(warm_up + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run >= warm_up:
                taken[name].append((time.perf_counter() - start) * 1000)
    return {
        name: {"p50": round(float(np.percentile(times, 50)), 3), "p90": round(float(np.percentile(times, 90)), 3)}
        for name, times in taken.items()
    }


def cpu_name() -> str:
    """What the processor calls itself, and the number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: Python's own answer has to do
    return f"{name}, {os.cpu_count()} cores"
