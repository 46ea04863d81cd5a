"""Binary cross-entropy on class logits, of sampled priors or of all.

Letters: B images, P priors, C classes, S priors that count.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from bifocals.structures import Matched, Normalizer


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-log(p) of the classes of a prior's objects, -log(1 - p) of the others, summed over the priors that are not
    ignored (arXiv:1506.01497, Eq. 1, with one logit in place of two).

    normalizer: what the sum is divided by (`Matched.normalizer`).
    """

    normalizer: Normalizer = "sampled"

    def __call__(self, matched: Matched) -> Tensor:
        logits, targets = matched.output.logits.flatten(0, 1), matched.class_targets.flatten(0, 1)  # [B * P, C]
        if matched.counted is not None:
            # A few hundred of some hundred thousand: only these are looked at.
            sampled = matched.counted.flatten().nonzero()[:, 0]
            logits, targets = logits.index_select(0, sampled), targets.index_select(0, sampled)  # [S, C]
        total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        return total / matched.normalizer(self.normalizer)
