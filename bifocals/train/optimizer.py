"""The optimizer, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Optim:
    """How weights are learned. The defaults are DATE's (arXiv:2211.13859, 1x). ValueError for impossible values."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (betas .9/.999, eps 1e-8) or sgd with momentum."""
    lr: float = 4e-4
    """Learning rate after warm-up. It is not scaled with the batch size."""
    batch_size: int = 16
    """Images of an optimizer step, over all processes and micro-batches."""
    weight_decay: float = 1e-4
    """Weight decay of every parameter that learns, biases too."""
    decay_norms: bool = True
    """Weight decay of norms and biases, which are vectors, as of all others; off leaves them out (BiSeNet)."""
    backbone_lr_factor: float = 0.1
    """Learning rate of the backbone, relative to `lr`."""
    head_lr_factor: float = 1.0
    """Learning rate of the head, relative to `lr`; 10 for BiSeNet's fusion and output heads."""
    momentum: float = 0.9
    """Momentum of sgd; adamw does not use it."""
    clip_norm: float | None = 0.1
    """Largest L2 norm of all gradients together; none leaves them as they are."""
    schedule: Literal["step", "cosine", "constant", "poly"] = "step"
    """step: a tenth after each milestone. cosine: half a wave down to zero. poly: what is left of the training, to
    `power`."""
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    """Milestones of `step` as fractions of training."""
    power: float = 0.9
    """Exponent of `poly`: (1 - step / steps) to it."""
    warmup_steps: int = 1000
    """Steps of linear warm-up, on top of the schedule; never more than a tenth of the run."""
    warmup_factor: float = 0.001
    """Fraction of the learning rate at the first step of the warm-up."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, like 0.9998; none keeps no average."""

    @staticmethod
    def crowdhuman() -> Optim:
        """DATE's for CrowdHuman: a tenth after 20,000 and 25,000 of 30,000 steps, which are 32 passes over its 15,000
        training images at 16 a step. The defaults serve 12 and 36 epochs of COCO alike."""
        return Optim(milestones=(20 / 30, 25 / 30))

    def __post_init__(self) -> None:
        for name, known in (("name", ("adamw", "sgd")), ("schedule", ("step", "cosine", "constant", "poly"))):
            if getattr(self, name) not in known:
                raise ValueError(f"Optim expected {name} to be one of {known}, got {getattr(self, name)!r}.")
        for name in ("lr", "clip_norm", "power"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"Optim expected {name} to be a positive number, got {value}.")
        for name in ("weight_decay", "backbone_lr_factor", "head_lr_factor", "momentum", "warmup_steps"):
            if not (0 <= getattr(self, name) < math.inf):
                raise ValueError(f"Optim expected {name} to be zero or more, got {getattr(self, name)}.")
        if self.batch_size < 1:
            raise ValueError(f"Optim expected batch_size to be at least 1, got {self.batch_size}.")
        if not 0 <= self.warmup_factor <= 1:
            raise ValueError(f"Optim expected warmup_factor in [0, 1], got {self.warmup_factor}.")
        if not all(0 <= m <= 1 for m in self.milestones):
            raise ValueError(f"Optim expected milestones to be fractions of training in [0, 1], "
                             f"got {self.milestones}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"Optim expected ema to be a decay between 0 and 1, got {self.ema}.")


def learning_rate_factor(optim: Optim, step: int, total: int) -> float:
    """What `optim.lr` is multiplied with at step `step` (from 0) of `total`: schedule times warm-up.

    A function of the step alone, so a resumed run needs no scheduler state.
    """
    if optim.schedule == "step":
        # 1e-9: 11/12 of 12 epochs is the start of the last epoch, whatever floating point makes of it.
        factor = 0.1 ** sum(step >= math.ceil(m * total - 1e-9) for m in optim.milestones)
    elif optim.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / total))
    elif optim.schedule == "poly":
        factor = (1 - step / total) ** optim.power
    else:
        factor = 1.0
    warmup = min(optim.warmup_steps, total // 10)
    if step < warmup:
        factor *= optim.warmup_factor + (1 - optim.warmup_factor) * step / warmup
    return factor


def build_optimizer(network: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """AdamW or SGD over the parameters that learn; parameters with equal settings share a group.

    One group a parameter would cost a kernel launch each; merged, a step is a few fused kernels. The backbone is every
    parameter whose name starts with `backbone.`, the head with `head.`. ValueError if nothing learns.
    """
    factors = {"backbone": optim.backbone_lr_factor, "head": optim.head_lr_factor}
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = optim.lr * factors.get(name.split(".")[0], 1.0)
            decay = optim.weight_decay if optim.decay_norms or parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append((name, parameter))
    if not groups:
        raise ValueError(f"build_optimizer expected a network with parameters that learn, got "
                         f"{type(network).__name__} with none.")
    settings = [{"params": named, "lr": lr, "base_lr": lr, "weight_decay": decay}
                for (lr, decay), named in groups.items()]
    devices = {p.device.type for named in groups.values() for _, p in named}
    fused = devices <= {"cpu", "cuda"}
    if optim.name == "sgd":
        return torch.optim.SGD(settings, momentum=optim.momentum, fused=fused)
    return torch.optim.AdamW(settings, betas=(0.9, 0.999), eps=1e-8, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: Optim, step: int, total: int) -> float:
    """Sets the rates of step `step` (from 0) and returns the one outside backbone and head."""
    factor = learning_rate_factor(optim, step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optim.lr * factor


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients together, a scalar on their device."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
