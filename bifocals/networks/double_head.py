"""Two heads for two tasks: fully connected layers say what a RoI is, convolutions where its object ends (Double-Head
R-CNN, arXiv:1904.06493, Figure 1c).

Letters: R RoIs of a batch, C classes, K = C + 1 with the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from bifocals.structures import DeltaCoder

from .roi_align import RoIAlign
from .roi_head import ROI_CODER

HeadNorm = Literal["batch", "sync"]


class DoubleHead(nn.Module):
    """Class logits from two fully connected layers over the RoI, one box a class from a small residual network over the
    RoI enlarged by `enlarge` about its center; both are pooled from the level that fits the RoI itself.

    The background is the last class. depth: bottlenecks after the block that widens the features to `width` channels.
    norm: "batch" norms learn from the RoIs of one process; "sync" from those of all, and needs CUDA devices. pool: the
    features of a RoI. Convolutions start Kaiming-normal, the layers as in `BoxHead`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        pool: RoIAlign | None = None,
        width: int = 1024,
        depth: int = 4,
        enlarge: float = 1.3,
        norm: HeadNorm = "batch",
        coder: DeltaCoder = ROI_CODER,
    ) -> None:
        super().__init__()
        if num_classes < 1 or enlarge <= 0 or width % 4:
            raise ValueError(f"DoubleHead expected at least one class, enlarge above 0 and a width in multiples of 4, "
                             f"got {num_classes}, {enlarge} and {width}.")
        if norm not in get_args(HeadNorm):
            raise ValueError(f"DoubleHead expected norm of {get_args(HeadNorm)}, got {norm!r}.")
        self.pool = RoIAlign() if pool is None else pool
        self.box_pool = self.pool.enlarged(enlarge)
        self.coder = coder
        self.num_classes = num_classes
        self.fc1 = nn.Linear(channels * self.pool.size**2, width)
        self.fc2 = nn.Linear(width, width)
        self.cls = nn.Linear(width, num_classes + 1)
        blocks = [Widening(channels, width), *(Bottleneck(width, width // 4) for _ in range(depth))]
        self.blocks: nn.Module = nn.Sequential(*blocks)
        self.box = nn.Linear(width, num_classes * 4)
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if norm == "sync":
            self.blocks = nn.SyncBatchNorm.convert_sync_batchnorm(self.blocks)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.cls, self.box):
            nn.init.zeros_(layer.bias)

    def forward(
        self, levels: Sequence[Tensor], rois: Float[Tensor, "R 4"], image: Int64[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R K"], Float[Tensor, "R C 4"]]:
        """Class logits before the softmax, and deltas by `coder` against the RoI itself. image: that of each RoI."""
        x = self.pool(levels, rois, image).flatten(1)
        logits = self.cls(self.fc2(self.fc1(x).relu()).relu())
        wide = self.blocks(self.box_pool(levels, rois, image)).mean(dim=(2, 3))
        return logits, self.box(wide).unflatten(1, (self.num_classes, 4))


class Widening(nn.Module):
    """3x3 and 1x1 convolutions with batch norm beside a 1x1 convolution that makes the input as wide, added, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.way(x) + self.shortcut(x)).relu()
