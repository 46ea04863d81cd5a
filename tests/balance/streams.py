"""Scripted losses of a branch, and what a balancer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def raw(cls: float, box: float) -> dict[str, Tensor]:
    return {"cls": torch.tensor(cls), "box": torch.tensor(box)}


def trace(balancer: Any, cls: Sequence[float], box: Sequence[float]) -> list[tuple[float, float]]:
    """The weights of class side and box side that each step of the stream is taken with."""
    used = []
    for c, r in zip(cls, box, strict=True):
        weighted = balancer(raw(1.0, 1.0))
        used.append((float(weighted["cls"]), float(weighted["box"])))
        balancer.observe(raw(c, r))
    return used


def alphas(balancer: Any, cls: Sequence[float], box: Sequence[float]) -> list[float]:
    """The weight of the class side in each step."""
    return [weight for weight, _ in trace(balancer, cls, box)]


def noisy(
    rho: float | Sequence[float], count: int, seed: int = 0, noise: float = 0.1
) -> tuple[list[float], list[float]]:
    """Class losses around 1 and box losses around rho, each with lognormal noise."""
    draw = np.random.default_rng(seed)
    cls, box = np.exp(noise * draw.standard_normal((2, count)))
    return cls.tolist(), (box * np.asarray(rho)).tolist()
