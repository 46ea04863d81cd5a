"""A network that always predicts the same, and scenes to look at with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bifocals.assign import EATSS
from bifocals.balance import Fixed
from bifocals.losses import HCRAC, HCRAR, Centerness
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Anchors, DenseOutput, Priors, Target, boxes_from_distances, make_points

SIZE_HW = (96, 128)
SQUARE = Anchors(8.0, 1, (1.0,))


class Still(nn.Module):
    """Predictions that do not depend on the image, around the priors that it is made with. It counts in training."""

    size_divisor = 32
    forwards: Tensor

    def __init__(self, priors: Priors, num_classes: int = 2, names: Sequence[str] = ("one2many",)) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        shape, self.names = (1, len(priors)), tuple(names)
        sides = (0.5 + torch.rand(*shape, 4, generator=draw)) * 3 * priors.strides[:, None]
        self.output = DenseOutput(torch.randn(*shape, num_classes, generator=draw) - 1, sides,
                                  boxes_from_distances(priors.points, sides), priors,
                                  torch.randn(*shape, generator=draw))
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("forwards", torch.zeros(()))

    def forward(self, images: Tensor) -> dict[str, DenseOutput]:
        self.norm(images.float())
        if self.training:
            self.forwards += 1
        return dict.fromkeys(self.names, self.output)


def points(levels: int = 5) -> Priors:
    """Points of P3 to P7 of an image of 96x128."""
    return make_points([(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)][:levels], (8, 16, 32, 64, 128)[:levels])


def anchored(anchors: Anchors = SQUARE) -> Priors:
    return anchors.at(points())


def target(*boxes: tuple[float, float, float, float], labels: Sequence[int] | None = None,
           crowd: Sequence[int] = ()) -> Target:
    """An image of these objects, those numbered in `crowd` crowd regions."""
    flags = torch.zeros(len(boxes), dtype=torch.bool)
    flags[list(crowd)] = True
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                  torch.tensor(labels or [0] * len(boxes), dtype=torch.int64), flags, SIZE_HW, SIZE_HW, 7)


def scene() -> Target:
    """A large object, one that overlaps it, and a small one apart."""
    return target((8, 8, 76, 80), (40, 24, 120, 90), (100, 4, 116, 18), labels=[0, 1, 1])


def picture() -> Tensor:
    return torch.full((3, *SIZE_HW), 128, dtype=torch.uint8)


def hcral_objective() -> Objective:
    losses = {"cls": HCRAC(), "box": HCRAR(1.5, weight="centerness"), "quality": Centerness()}
    return Objective({"one2many": DenseBranch(EATSS(), losses, Fixed({"box": 2.0}))})
