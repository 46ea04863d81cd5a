"""Where the pairs of a match stand among the class logits of a batch.

Letters: B images, P priors, C classes, M pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bifocals.structures import Matched


def entry_index(matched: Matched) -> Int64[Tensor, "M"]:
    """Index of the logit of each pair's own class in the flattened [B, P, C]."""
    matches, (_, num_priors, num_classes) = matched.matches, matched.output.logits.shape
    return (matches.image * num_priors + matches.prior) * num_classes + matched.target_labels


def best_of_class(matched: Matched, value: Float[Tensor, "M"]) -> Bool[Tensor, "M"]:
    """True for the pair of the highest value of each (image, prior, class); of equal ones, for the first.

    A prior may answer for two objects of one class, but has one logit for them.
    """
    by_value = value.argsort(descending=True, stable=True)
    key, order = entry_index(matched)[by_value].sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return torch.zeros_like(first).scatter(0, by_value[order], first)


def counted_pairs(matched: Matched, mine: Bool[Tensor, "M"]) -> Bool[Tensor, "M"]:
    """Those of the pairs `mine` whose prior is not ignored."""
    if matched.counted is None:
        return mine
    return mine & matched.counted[matched.matches.image, matched.matches.prior]
