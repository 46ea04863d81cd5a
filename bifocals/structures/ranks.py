"""Sums over the processes of a distributed run; the identity in a single process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@torch.no_grad()
def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of `value` over all ranks, equal on every rank."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def of_all_ranks(mine: Value) -> list[Value]:
    """The values of all ranks, in order, on every rank; any values that pickle."""
    if world_size() == 1:
        return [mine]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return parts
