"""A network that can be read: it finds one box, which lies where the picture is brightest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bifocals.structures import DenseOutput, Priors


class Brightest(nn.Module):
    """One prior for each 8x8 cell; its logit grows with the mean brightness, its box is the cell. Class 1 of 2."""

    outputs = ("one2one", "other")
    size_divisor = 32

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))
        self.still = nn.Dropout(0.5)
        self.modes: list[bool] = []
        self.batch_sizes: list[int] = []
        self.dtypes: list[torch.dtype] = []

    def forward(self, images: Tensor, targets: object = None) -> dict[str, DenseOutput]:
        assert images.dtype == torch.uint8
        self.modes.append(self.training)
        self.batch_sizes.append(len(images))
        cells = nn.functional.avg_pool2d(images.float().mean(1, keepdim=True), 8)[:, 0] / 255
        height, width = cells.shape[1:]
        y, x = torch.meshgrid(torch.arange(height) * 8.0, torch.arange(width) * 8.0, indexing="ij")
        boxes = torch.stack([x, y, x + 8, y + 8], dim=-1).reshape(1, -1, 4).expand(len(images), -1, -1)
        self.dtypes.append((torch.ones(1, 1) @ self.gain.reshape(1, 1)).dtype)  # autocast shows in a product
        bright = self.gain * (cells.flatten(1) - 0.5)
        logits = torch.stack([torch.full_like(bright, -9.0), bright], dim=2)
        priors = Priors(boxes[0, :, :2] + 4, torch.full((height * width,), 8.0), (height * width,))
        output = DenseOutput(logits, boxes, boxes, priors)
        return {"one2one": output, "other": output}


@pytest.fixture
def brightest() -> Brightest:
    return Brightest()
