"""The mask branch of Mask R-CNN (arXiv:1703.06870, Figure 4, right).

Letters: R RoIs, C classes, K channels, m cells of a mask's side.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor, nn

from .roi_align import RoIAlign


class MaskHead(nn.Module):
    """RoIs pooled to 14x14 -> a mask logit for each class and cell, twice as many cells a side.

    `depth` convolutions 3x3, a transposed one 2x2 of stride 2, each with ReLU, and a 1x1 for the classes. All start
    Kaiming-normal by their outputs, biases 0. pool: the features of a RoI.
    """

    def __init__(
        self, num_classes: int, channels: int = 256, pool: RoIAlign | None = None, width: int = 256, depth: int = 4
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"MaskHead expected at least one class, got {num_classes}.")
        self.pool = RoIAlign(size=14) if pool is None else pool
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [nn.Conv2d(width if i else channels, width, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.up = nn.ConvTranspose2d(width if depth else channels, width, 2, 2)
        self.cls = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(
        self, levels: Sequence[Tensor], rois: Float[Tensor, "R 4"], image: Int64[Tensor, "R"]
    ) -> Float[Tensor, "R C m m"]:
        """Logits before the sigmoid. image: the image of each RoI."""
        return self.cls(self.up(self.layers(self.pool(levels, rois, image))).relu())
