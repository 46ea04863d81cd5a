"""Images and targets by (epoch, index); every random draw is a function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bifocals.structures import Target

from .annotations import Annotations
from .images import read_image
from .transforms import Transform

# Domains keep the draws of different purposes apart under one seed.
_ORDER, _AUGMENTATION = 1, 2
_MASK = 2**64 - 1


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Decoded, transformed images with their targets.

    Keys are pairs (epoch, index); the same pair gives the same sample in any process, at any time.
    For evaluation use epoch 0 and a transform that draws nothing.
    """

    def __init__(self, annotations: Annotations, transform: Transform, seed: int = 0) -> None:
        self.annotations, self.transform, self.seed = annotations, transform, seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        epoch, index = key
        image, target = self.source(index)
        with seeded(self.seed, epoch, index):
            return self.transform(image, target)

    def source(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], Target]:
        """The image as it is on disk, and its objects, before any transform."""
        annotations = self.annotations
        size_hw = (int(annotations.sizes_hw[index, 0]), int(annotations.sizes_hw[index, 1]))
        image = read_image(annotations.image_path(index), size_hw, bool(annotations.upright[index]))
        boxes, labels, crowd = annotations.objects(index)
        original_hw = (image.shape[-2], image.shape[-1])
        target = Target(
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            crowd=torch.from_numpy(crowd.astype(bool)),
            size_hw=original_hw,
            original_hw=original_hw,
            image_id=int(annotations.image_ids[index]),
        )
        return image, target


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
