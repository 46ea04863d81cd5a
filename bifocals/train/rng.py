"""The states of all random generators of a process, as tensors and plain numbers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """States of torch (CPU and the current CUDA device), numpy and Python.

    tensors: int64 or uint8, one for each generator. numbers: what does not fit a tensor, JSON.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @staticmethod
    def capture(device: torch.device) -> RandomState:
        name, keys, position, has_gauss, gauss = np.random.get_state()
        assert name == "MT19937"
        version, words, gauss_next = random.getstate()
        tensors = {
            "torch": torch.get_rng_state(),
            "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "python": torch.tensor(words, dtype=torch.int64),
        }
        if device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(device)
        numbers = {"numpy": [int(position), int(has_gauss), float(gauss)], "python": [version, gauss_next]}
        return RandomState(tensors, numbers)

    def restore(self, device: torch.device) -> None:
        torch.set_rng_state(self.tensors["torch"])
        position, has_gauss, gauss = self.numbers["numpy"]
        np.random.set_state(("MT19937", self.tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
        version, gauss_next = self.numbers["python"]
        random.setstate((version, tuple(self.tensors["python"].tolist()), gauss_next))
        if device.type == "cuda" and "cuda" in self.tensors:
            torch.cuda.set_rng_state(self.tensors["cuda"], device)


def seed_all(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
