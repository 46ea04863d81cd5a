"""DR loss: the distribution of objects' scores is ranked above that of the background (arXiv:1907.10156).

Letters: B images, P priors, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifocals.structures import Matched

from .entries import counted_pairs, entry_index


@dataclass(frozen=True)
class DR:
    """tau / sharpness * softplus(sharpness * (n - q + margin)): the mean score n of the hardest background below the
    mean score q of the hardest objects.

    n is the mean of background scores weighed by softmax(p / negative_lambda), q that of objects' scores weighed by
    softmax(-p / positive_lambda), over all counted logits of this process; gradient flows through the weights. Without
    objects q is 1. No divisor. The defaults are the release's for RetinaNet, whose network starts at a probability of
    .5, has one IoU threshold of .5 for both sides and takes detections above .2.
    """

    positive_lambda: float = 1.0
    negative_lambda: float = 0.1 / math.log(3.5)
    sharpness: float = 6.0
    tau: float = 4.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        if min(self.positive_lambda, self.negative_lambda, self.sharpness) <= 0:
            raise ValueError(f"DR expected lambdas and sharpness above 0, got {self.positive_lambda}, "
                             f"{self.negative_lambda}, {self.sharpness}.")

    def __call__(self, matched: Matched) -> Tensor:
        scores = matched.output.logits.sigmoid()
        background = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
        background.view(-1)[entry_index(matched)] = False
        if matched.counted is not None:
            background &= matched.counted[..., None]
        # Not softmax over those selected: a selection of ten million logits costs more than all passes over them.
        low = (scores / self.negative_lambda).masked_fill(~background, -math.inf)
        weights = (low - low.detach().amax().clamp(min=0)).exp()
        highest = (weights * scores).sum() / weights.sum().clamp(min=torch.finfo(scores.dtype).tiny)

        objects = scores.reshape(-1)[entry_index(matched)[counted_pairs(matched, matched.first_of_class)]]
        lowest = ((-objects / self.positive_lambda).softmax(0) * objects).sum() if len(objects) else 1.0
        return self.tau / self.sharpness * F.softplus(self.sharpness * (highest - lowest + self.margin))
