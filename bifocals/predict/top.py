"""The best pairs of a prior and a class, in the stable order of `stable_top`.

Letters: B images, P priors, C classes, k pairs kept.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from bifocals.structures import stable_top


def top_pairs(
    logits: Float[Tensor, "B P C"], k: int
) -> tuple[Int64[Tensor, "B k"], Int64[Tensor, "B k"], Float[Tensor, "B k"]]:
    """Prior, class and logit of the k greatest logits of each image, in the stable order of the flat [P C] index.

    Exact in two stages, of P and k*C numbers instead of P*C: a pair among the best k belongs to one of the k priors
    whose best class is greatest, since each of those priors offers a pair that is not worse. That also holds for equal
    logits when the stages break ties by index and the second one sees its priors in ascending order.
    """
    _, num_priors, num_classes = logits.shape
    best = logits.amax(dim=2) if num_classes > 1 else logits[..., 0]  # [B P]
    priors = stable_top(best, min(k, num_priors)).sort(dim=1).values
    rows = logits.gather(1, priors[..., None].expand(-1, -1, num_classes)).flatten(1)  # [B, k * C]
    pairs = stable_top(rows, min(k, rows.shape[1]))
    return priors.gather(1, pairs // num_classes), pairs % num_classes, rows.gather(1, pairs)
