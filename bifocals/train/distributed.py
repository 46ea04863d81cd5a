"""Processes of a run: joined under torchrun, one without it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bifocals.structures import world_size

PATIENCE = timedelta(hours=1)
"""How long ranks wait for one that checks a large data set or writes to a slow disk."""


def choose_device(name: str) -> torch.device:
    """The device that `name` means for this process. ValueError for a device that torch does not have.

    auto is CUDA where there is a device, else the CPU. Under torchrun "cuda" is the device of the local rank.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Run expected device to be auto, cpu, cuda or cuda:N, got {name!r}.") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"Run expected a device that is there, got {name!r}, and torch sees no CUDA device.")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"Run expected a device that is there, got {device}, and torch sees "
                             f"{torch.cuda.device_count()} CUDA devices.")
        torch.cuda.set_device(device)
    return device


@contextmanager
def joined(name: str) -> Iterator[torch.device]:
    """Joins the process group that torchrun's environment describes and gives this process's device.

    nccl for CUDA, gloo for the CPU. Without torchrun, or with one process, there is no group. A group that the caller
    made is used and left alone.
    """
    device = choose_device(name)
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device, timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield device
    except SystemExit:
        dist.destroy_process_group()  # a stop that all ranks agreed on
        raise
    # After an error the group is left to the end of the process: to leave it in order needs the other ranks, and they
    # may be waiting in a collective that this one never joins.
    dist.destroy_process_group()


def parallel(network: nn.Module, device: torch.device) -> DistributedDataParallel | None:
    """The network under DDP, which averages gradients over ranks; None in a single process."""
    if world_size() == 1:
        return None
    # Buffers are only sent around where they change: statistics of batch norms that are not frozen.
    moving = any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.track_running_stats
                 for m in network.modules())
    # torch is renaming the argument: each of its releases that we support knows one of the two without a warning.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: moving, "device_ids": [device] if device.type == "cuda" else None}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **options)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of a tensor over ranks, equal on every rank; the tensor itself in a single process."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """[W, ...] the tensors of all ranks, which have one shape, in order of the rank."""
    if world_size() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.contiguous(), group=group)
    return torch.stack(parts)
