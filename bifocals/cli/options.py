"""What several commands read alike from their command line."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bifocals.data import Input
from bifocals.networks import DenseDetector, prune
from bifocals.predict import Views, multi_scale


def parse_nms(text: str) -> float | Literal["default"] | None:
    """`none` -> None, `0.6` -> 0.6, `default` stays. ValueError for anything else."""
    if text == "default":
        return "default"
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise ValueError(f"--nms expected none or an IoU above 0 and up to 1, got {text!r}.")
    return value


def parse_device(name: str) -> torch.device:
    """`auto` -> a CUDA device where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def parse_views(input: Input, tta: bool, shorts: tuple[int, ...], flip: bool) -> Views | None:
    """The views of a test-time augmentation; None where none of its options was given."""
    return multi_scale(input, shorts=shorts, flip=flip) if tta or shorts or flip else None


def shipped(network: nn.Module, output: str) -> nn.Module:
    """The network without what an output does not need; one of a user's own that cannot be pruned stays whole."""
    known = isinstance(network, DenseDetector) or hasattr(network, "pruned")
    return prune(network, output) if known else network
