"""Softmax cross-entropy, for heads that choose one class of a region of interest (RoI).

Letters: B images (RoIs of a whole batch count as one image), P priors, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bifocals.structures import Matched, Normalizer


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """-log of the softmax probability of the class of each prior's object, or of the background, the last logit.

    Ignored priors do not count; a prior with several objects belongs to the last of them. normalizer: what the sum is
    divided by (`Matched.normalizer`).
    """

    normalizer: Normalizer = "counted"

    def __call__(self, matched: Matched) -> Tensor:
        logits, matches = matched.output.logits, matched.matches  # [B, P, C + 1]
        labels = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
        labels[matches.image, matches.prior] = matched.target_labels
        if matches.ignore is not None:
            labels = labels.masked_fill(matches.ignore, -1)
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
        return total / matched.normalizer(self.normalizer)
