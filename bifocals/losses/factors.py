"""How much each pair counts in a loss: the factors that losses compute inside, for whoever wants to look.

Letters: M pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from bifocals.structures import Matched


@dataclass(frozen=True, eq=False)
class PairFactors:
    """What a loss multiplies its own term of each pair with, without gradient, by the names of its paper.

    The term is the cross-entropy of the logit of the object's class, or the distance of box and object (1 - GIoU).
    factors: their product is `weight`. details: numbers of a pair that factors are made of.
    """

    factors: Mapping[str, Float[Tensor, "M"]]
    details: Mapping[str, Float[Tensor, "M"]] = field(default_factory=dict)

    @property
    def weight(self) -> Float[Tensor, "M"]:
        """The product of all factors. ValueError where there are none."""
        if not self.factors:
            raise ValueError("PairFactors.weight expected at least one factor, got none.")
        return math.prod(self.factors.values())  # type: ignore[return-value]


@runtime_checkable
class Weighing(Protocol):
    """A loss that tells by what each pair counts in it.

    `pair_factors` gives what the next call of the loss would use, in the mode that the loss is in, and changes no
    state. copies: the batch counts as if it came so many times over. Losses that compare a batch with counts of the
    batches before it need that where a single image is looked at. Under several processes all must call.
    """

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors: ...
