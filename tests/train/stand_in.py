"""A detector small enough for a step in milliseconds, with everything that a resumed run could lose.

Dropout (random states), a batch norm that learns (buffers, in the moving average too), a loss with a running mean and
a balancer with memory (the objective's buffers), AdamW and an average of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bifocals.assign import FCOS
from bifocals.data import Data, Input
from bifocals.losses import IoULoss
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import DenseOutput, Matched, Target, boxes_from_distances, make_points
from bifocals.train import Experiment, Optim

STRIDE = 8
ONE_LEVEL = FCOS(ranges=((-1.0, 1e8),))


class TinyDetector(nn.Module):
    """Four convolutions and one output of stride 8."""

    size_divisor = 32
    outputs = ("one2many",)

    def __init__(self, num_classes: int, dropout: float = 0.1, norm: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8) if norm else nn.GroupNorm(2, 8), nn.ReLU(),
            nn.Conv2d(8, 16, 2, 2), nn.ReLU(), nn.Dropout2d(dropout),
        )
        self.num_classes = num_classes
        self.predict = nn.Conv2d(16, num_classes + 4, 3, padding=1)
        nn.init.constant_(self.predict.bias, -2.0)

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> dict[str, DenseOutput]:
        x = self.predict(self.backbone(images.float() / 255 - 0.5))
        priors = make_points([(x.shape[2], x.shape[3])], [STRIDE], device=x.device)
        logits, deltas = x.flatten(2).transpose(1, 2).split([self.num_classes, 4], dim=2)
        boxes = boxes_from_distances(priors.points, F.softplus(deltas.float()) * STRIDE)
        return {"one2many": DenseOutput(logits, deltas, boxes, priors)}


class RunningFocus(nn.Module):
    """Cross-entropy of all classes, divided by a running mean of itself: a loss with state."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, matched: Matched) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(matched.output.logits, matched.class_targets, reduction="sum")
        loss = entropy / matched.num_positive
        scaled = loss / self.mean
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return scaled


class Memory(nn.Module):
    """Weighs each loss by the inverse of its first observation, moved by the later ones: a balancer with state."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("seen", torch.ones(len(self.names)))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: raw[name] / self.seen[i].clamp(min=0.1) for i, name in enumerate(self.names)}

    def observe(self, raw: Mapping[str, Tensor]) -> None:
        self.seen = 0.8 * self.seen + 0.2 * torch.stack([raw[name] for name in self.names])
        self.count += 1


class Entropy:
    """Cross-entropy of all classes, divided by the number of positives over all ranks."""

    def __call__(self, matched: Matched) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(matched.output.logits, matched.class_targets, reduction="sum")
        return entropy / matched.num_positive


def tiny(
    data: Data = Data(),
    input: Input = Input(64, 64),
    optim: Optim = Optim(lr=2e-3, batch_size=4, warmup_steps=3, ema=0.9),
    epochs: float = 4,
    dropout: float = 0.1,
) -> Experiment:
    """The recipe of the stand-in, with all its state."""
    return Experiment(
        network=lambda num_classes: TinyDetector(num_classes, dropout),
        objective=lambda: Objective(
            {"one2many": DenseBranch(ONE_LEVEL, {"cls": RunningFocus(), "box": IoULoss()}, Memory(("cls", "box")))}
        ),
        postprocess={"one2many": Postprocess(0.01, nms=0.6)},
        output="one2many",
        input=input,
        data=data,
        optim=optim,
        epochs=epochs,
    )


def stateless(
    data: Data = Data(),
    input: Input = Input(64, 64),
    optim: Optim = Optim(lr=2e-3, batch_size=4, warmup_steps=3),
    epochs: float = 4,
) -> Experiment:
    """The same without what differs between one process and several: no dropout, no batch statistics.

    The balancer stays: it observes losses of all processes, so its memory and its weights must be equal too.
    """
    return Experiment(
        network=lambda num_classes: TinyDetector(num_classes, 0.0, norm=False),
        objective=lambda: Objective(
            {"one2many": DenseBranch(ONE_LEVEL, {"cls": Entropy(), "box": IoULoss()}, Memory(("cls", "box")))}
        ),
        postprocess={"one2many": Postprocess(0.01, nms=None)},
        output="one2many",
        input=input,
        data=data,
        optim=optim,
        epochs=epochs,
    )
