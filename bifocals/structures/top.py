"""The best k of many numbers in a stable order: of equal numbers the first one comes first.

`torch.topk` returns equal numbers in any order, and bfloat16 logits are full of equal numbers. A stable order makes a
result independent of the device, of the padding of a batch and of the path that computed it.

Letters: N numbers of a row, k of them kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def stable_top(values: Float[Tensor, "*B N"], k: int) -> Int64[Tensor, "*B k"]:
    """Indices of the k greatest values of each row, greatest first, equal values by ascending index. NaN comes first.

    Rows without equal numbers among their best are the common case of float32. Otherwise value and index are packed
    into one integer, so that no two keys are equal.
    """
    best = values.topk(min(k + 1, values.shape[-1]), dim=-1)
    if not (best.values[..., 1:] == best.values[..., :-1]).any():
        return best.indices[..., :k]
    bits = (values.float() + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0, its equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
    last = values.shape[-1] - 1
    key = (ordered.long() << 32) + (last - torch.arange(last + 1, device=values.device))
    return key.topk(k, dim=-1).indices
