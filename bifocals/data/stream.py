"""Endless training batches and exact evaluation batches, the same for any number of workers and processes.

Position k of the training stream is image order(seed, k // I)[k % I]: no state, so a run continues anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bifocals.structures import Batch, Target

from .dataset import DetectionDataset, Source, philox_order
from .defects import DataError
from .transforms import Transform

Sample = tuple[Tensor, Target]


def collate(samples: Sequence[Sample], divisor: int = 32) -> Batch:
    """One batch; images padded with zeros, right and bottom, to a common size that `divisor` divides."""
    return Batch(_pad([image for image, _ in samples], divisor), tuple(target for _, target in samples))


def train_stream(
    annotations: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    total_steps: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    divisor: int = 32,
    pin_memory: bool = False,
    context: str | None = None,
) -> Stream:
    """The batches of steps first_step to total_steps - 1 that belong to `rank`.

    The global batch of step s holds positions s * batch_size to (s + 1) * batch_size - 1 of the stream; each rank
    takes its contiguous share. `context`: how workers start (fork, spawn, forkserver), None for the system's habit.
    Raises ValueError where batch_size is not a multiple of world_size or there are no images.
    """
    _require_ranks(rank, world_size)
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"train_stream expected a batch_size that {world_size} processes can share, got {batch_size}.")
    if len(annotations) == 0:
        raise ValueError("train_stream expected images to train on, got a set of 0 images.")
    keys = _TrainKeys(len(annotations), seed, batch_size, first_step, total_steps, rank, world_size)
    dataset = DetectionDataset(annotations, transform, seed)
    return _stream(dataset, keys, workers, divisor, pin_memory, context)


def eval_stream(
    annotations: Source,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    divisor: int = 32,
    pin_memory: bool = False,
    context: str | None = None,
) -> Stream:
    """Every image exactly once over all ranks, in the order of the set; nothing is repeated to fill a batch."""
    _require_ranks(rank, world_size)
    if batch_size < 1:
        raise ValueError(f"eval_stream expected a batch_size of at least 1, got {batch_size}.")
    mine = range(rank, len(annotations), world_size)
    keys = [[(0, i) for i in mine[start : start + batch_size]] for start in range(0, len(mine), batch_size)]
    return _stream(DetectionDataset(annotations, transform), keys, workers, divisor, pin_memory, context)


class Stream:
    """Batches in order; each iteration starts anew from the first."""

    def __init__(self, loader: DataLoader, num_batches: int) -> None:
        self._loader, self._num_batches = loader, num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        with _quiet():
            batches = iter(self._loader)
        try:
            for packed in batches:
                if isinstance(packed, DataError):
                    raise packed
                yield packed.unpack()
        finally:
            # Now, not when an exception's frames are collected: torch would wait five seconds for each worker.
            del batches


class _TrainKeys(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each step of one rank."""

    def __init__(
        self, num_images: int, seed: int, batch_size: int, first_step: int, total_steps: int, rank: int, world_size: int
    ) -> None:
        self.num_images, self.seed, self.batch_size = num_images, seed, batch_size
        self.first_step, self.total_steps = first_step, total_steps
        self.share = batch_size // world_size
        self.skip = rank * self.share

    def __len__(self) -> int:
        return max(0, self.total_steps - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        for step in range(self.first_step, self.total_steps):
            start = step * self.batch_size + self.skip
            keys = []
            for position in range(start, start + self.share):
                epoch, place = divmod(position, self.num_images)
                if epoch not in orders:
                    # Only this epoch and the one before can be met: a step never goes back.
                    orders = {e: order for e, order in orders.items() if e == epoch - 1}
                    orders[epoch] = philox_order(self.seed, epoch, self.num_images)
                keys.append((epoch, int(orders[epoch][place])))
            yield keys


@dataclass(frozen=True)
class _Packed:
    """A batch on its way from a worker: one shared tensor, and arrays that travel as plain bytes.

    A Batch would send three tensors an image, each with a file descriptor of its own.
    """

    images: Tensor
    counts: list[int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    facts: list[dict[str, Any]]
    masks: Tensor | None = None
    semantic: Tensor | None = None
    semantic_hw: Sequence[tuple[int, ...]] = ()  # in evaluation labels keep their own size, images do not

    def pin_memory(self) -> _Packed:
        masks, semantic = (None if map is None else map.pin_memory() for map in (self.masks, self.semantic))
        return replace(self, images=self.images.pin_memory(), masks=masks, semantic=semantic)

    def unpack(self) -> Batch:
        parts = (torch.from_numpy(array).split(self.counts) for array in (self.boxes, self.labels, self.crowd))
        sizes = [facts["size_hw"] for facts in self.facts]
        masks = _views(self.masks, [(count, *size_hw) for count, size_hw in zip(self.counts, sizes, strict=True)])
        semantic = [None] * len(sizes) if self.semantic is None else _views(self.semantic, self.semantic_hw)
        rows = zip(*parts, self.facts, masks, semantic, strict=True)
        return Batch(self.images, tuple(
            Target(boxes, labels, crowd, **facts, masks=m, semantic=s) for boxes, labels, crowd, facts, m, s in rows
        ))


def _views(flat: Tensor | None, shapes: Sequence[tuple[int, ...]]) -> Sequence[Tensor | None]:
    """The maps of each image, which share the memory that the worker wrote."""
    if flat is None:
        return [None] * len(shapes)
    return [part.view(shape) for part, shape in zip(flat.split([prod(s) for s in shapes]), shapes, strict=True)]


class _Guarded(Dataset[Sample | DataError]):
    """Hands errors of the data over as values, so that a worker's error stays the one line that it is."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Sample | DataError:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


def _collate_packed(found: Sequence[Sample | DataError], divisor: int) -> _Packed | DataError:
    samples = []
    for sample in found:
        if isinstance(sample, DataError):
            return sample
        samples.append(sample)
    targets = [target for _, target in samples]
    return _Packed(
        images=_pad([image for image, _ in samples], divisor),
        counts=[len(t.labels) for t in targets],
        boxes=torch.cat([t.boxes for t in targets]).numpy(),
        labels=torch.cat([t.labels for t in targets]).numpy(),
        crowd=torch.cat([t.crowd for t in targets]).numpy(),
        facts=[{name: getattr(t, name) for name in ("size_hw", "original_hw", "image_id")} for t in targets],
        masks=_flat([t.masks for t in targets]),
        semantic=_flat([t.semantic for t in targets]),
        semantic_hw=[tuple(t.semantic.shape) for t in targets if t.semantic is not None],
    )


def _flat(maps: Sequence[Tensor | None]) -> Tensor | None:
    """All maps of a batch one after the other; None where the task has none."""
    real = [map for map in maps if map is not None]
    if not real:
        return None
    assert len(real) == len(maps), "a source gives all of its images maps or none"
    flat = _shared_empty((sum(map.numel() for map in real),))
    for part, map in zip(flat.split([map.numel() for map in real]), real, strict=True):
        part.view(map.shape).copy_(map)
    return flat


def _pad(images: Sequence[UInt8[Tensor, "3 _ _"]], divisor: int) -> UInt8[Tensor, "B 3 H W"]:
    height, width = (-(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2))
    shape = (len(images), 3, height, width)
    canvas = _shared_empty(shape).zero_()
    for slot, image in zip(canvas, images, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def _shared_empty(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Bytes; in a worker where the main process will read them, which saves a copy."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload]


def _stream(
    dataset: DetectionDataset,
    keys: Sampler[list[tuple[int, int]]] | list[list[tuple[int, int]]],
    workers: int,
    divisor: int,
    pin_memory: bool,
    context: str | None,
) -> Stream:
    if workers < 0:
        raise ValueError(f"A stream expected 0 or more workers, got {workers}.")
    with _quiet():
        loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=partial(_collate_packed, divisor=divisor),
            pin_memory=pin_memory,
            multiprocessing_context=context if workers else None,
            # Else the loader would draw its workers' seed from the global generator, which belongs to the network.
            generator=torch.Generator().manual_seed(0),
        )
    return Stream(loader, len(loader))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's advice on the number of workers, which was asked for, and Python's on forking beside threads.

    Torch's own threads are the ones that Python 3.12 means, and a worker never touches them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        yield


def _require_ranks(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"A stream expected a rank from 0 to {world_size - 1}, got {rank}.")
