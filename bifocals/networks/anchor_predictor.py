"""The predictor of anchor heads: class logits and box deltas for each anchor of a point.

Letters: B images, P priors, A anchors of a point, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from bifocals.structures import Anchors, DeltaCoder, DenseOutput, Priors

from .predictor import flatten_levels, start_convolutions


class AnchorPredictor(nn.Module):
    """Class logits and deltas s_l * x of each anchor, s_l the level's learned scale (RetinaNet, arXiv:1708.02002).

    Channels are anchor-major: the classes of the first anchor, then those of the second. quality: None, or the tower
    that the quality map reads (ATSS reads centerness from the box tower).
    Convolutions start N(0, .01); the class bias starts at the logit of `prior_probability`.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: Anchors = Anchors(),
        coder: DeltaCoder = DeltaCoder(),
        quality: Literal["cls", "box"] | None = None,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"AnchorPredictor expected at least one class, got {num_classes}.")
        self.anchors = anchors
        self.coder = coder
        self.num_classes = num_classes
        self.quality_source = quality
        self.cls = nn.Conv2d(channels, len(anchors) * num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, len(anchors) * 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, len(anchors), 3, padding=1) if quality else None
        start_convolutions(self, self.cls, prior_probability)

    def forward(
        self, cls_levels: Sequence[Tensor], box_levels: Sequence[Tensor], scales: Tensor, priors: Priors
    ) -> DenseOutput:
        anchored = self.anchors.at(priors)
        assert anchored.boxes is not None
        raw = flatten_levels([self.box(x).float() * s for x, s in zip(box_levels, scales, strict=True)])
        deltas = raw.unflatten(2, (len(self.anchors), 4)).flatten(1, 2)  # [B, P, 4]
        logits = flatten_levels([self.cls(x) for x in cls_levels])
        logits = logits.unflatten(2, (len(self.anchors), self.num_classes)).flatten(1, 2)  # [B, P, C]
        quality = None
        if self.quality is not None:
            source = cls_levels if self.quality_source == "cls" else box_levels
            quality = flatten_levels([self.quality(x) for x in source]).flatten(1)  # [B, P]
        return DenseOutput(logits, deltas, self.coder.decode(anchored.boxes, deltas), anchored, quality)
