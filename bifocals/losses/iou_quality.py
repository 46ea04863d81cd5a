"""Quality that learns the IoU of the predicted box."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from bifocals.structures import Matched, Normalizer


@dataclass(frozen=True)
class IoUQuality:
    """Binary cross-entropy of the quality logit against the IoU of box and object, mean over the positives.

    HCRAL (arXiv:2408.17182, section 1) keeps FCOS's centerness branch and gives it this target, which carries no
    gradient. Of a predictor that refines its boxes it is the IoU of the refined ones. normalizer: how positives are
    counted (`Matched.normalizer`).
    """

    normalizer: Normalizer = "reduced"

    def __call__(self, matched: Matched) -> Tensor:
        target = matched.iou.detach().clamp(0, 1)
        total = F.binary_cross_entropy_with_logits(matched.quality, target, reduction="sum")
        return total / matched.normalizer(self.normalizer)
