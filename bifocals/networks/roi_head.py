"""The second stage's head: what class a region of interest (RoI) is, and where its object ends.

Letters: R RoIs of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor, nn

from bifocals.structures import DeltaCoder

from .roi_align import RoIAlign

ROI_CODER = DeltaCoder((0.1, 0.1, 0.2, 0.2))
"""Deltas of RoIs are small, since the first stage has found the place: they are learned ten and five times as large."""


class BoxHead(nn.Module):
    """RoIs pooled once to 7x7, two fully connected layers with ReLU, then class logits and one box a class.

    The background is the last class. pool: the features of a RoI. width: of the layers; they start Xavier-uniform. The
    class layer starts N(0, .01), the box layer N(0, .001), all biases 0.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        pool: RoIAlign | None = None,
        width: int = 1024,
        coder: DeltaCoder = ROI_CODER,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"BoxHead expected at least one class, got {num_classes}.")
        self.pool = RoIAlign() if pool is None else pool
        self.coder = coder
        self.num_classes = num_classes
        self.fc1 = nn.Linear(channels * self.pool.size**2, width)
        self.fc2 = nn.Linear(width, width)
        self.cls = nn.Linear(width, num_classes + 1)
        self.box = nn.Linear(width, num_classes * 4)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.cls, self.box):
            nn.init.zeros_(layer.bias)

    def forward(
        self, levels: Sequence[Tensor], rois: Float[Tensor, "R 4"], image: Int64[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R C+1"], Float[Tensor, "R C 4"]]:
        """Class logits before the softmax and deltas by `coder`. image: the image of each RoI."""
        x = self.pool(levels, rois, image).flatten(1)
        x = self.fc2(self.fc1(x).relu()).relu()
        return self.cls(x), self.box(x).unflatten(1, (self.num_classes, 4))
