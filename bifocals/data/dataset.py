"""Images and targets by (epoch, index); every random draw is a function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bifocals.structures import Target

from .transforms import Transform

# Domains keep the draws of different purposes apart under one seed.
_ORDER, _AUGMENTATION = 1, 2
_MASK = 2**64 - 1


class Source(Protocol):
    """A set of images with their targets as they are on disk: `Annotations`, `LabelMaps`, or one's own."""

    def __len__(self) -> int: ...

    def source(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], Target]:
        """Image number `index` and its target, before any transform; the same at each call, in any process."""


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Decoded, transformed images with their targets: boxes, masks, or the classes of all pixels.

    Keys are pairs (epoch, index); the same pair gives the same sample in any process, at any time.
    For evaluation use epoch 0 and a transform that draws nothing.
    """

    def __init__(self, annotations: Source, transform: Transform, seed: int = 0) -> None:
        self.annotations, self.transform, self.seed = annotations, transform, seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        epoch, index = key
        image, target = self.annotations.source(index)
        with seeded(self.seed, epoch, index):
            return self.transform(image, target)


def philox_order(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    """[I] the order of an epoch: a permutation that depends on (seed, epoch) alone."""
    # Sorting Philox's raw stream, which numpy promises to keep; its `permutation` may change with a release.
    return np.argsort(_philox(seed, epoch, 0, _ORDER).random_raw(num_images), kind="stable")


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits that the draws of one sample start from."""
    return int(_philox(seed, epoch, index, _AUGMENTATION).random_raw()) >> 1


@contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seeds torch's CPU generator for one sample and gives it back its state afterwards."""
    # Not torch.manual_seed: it would also reseed the GPU, whose state belongs to the network.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(sample_seed(seed, epoch, index))
    try:
        yield
    finally:
        generator.set_state(state)


def _philox(seed: int, epoch: int, index: int, domain: int) -> np.random.Philox:
    counter = np.array([0, 0, index & _MASK, domain], dtype=np.uint64)
    return np.random.Philox(counter=counter, key=np.array([seed & _MASK, epoch & _MASK], dtype=np.uint64))
