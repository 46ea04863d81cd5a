"""Fixed loss weights: the trivial balancer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Fixed:
    """Multiplies each loss with its weight; a loss without one keeps weight 1.

    ValueError at the first call if a weight names a loss that the branch does not have.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        unknown = sorted(set(self.weights) - set(raw))
        if unknown:
            raise ValueError(f"Fixed weights name {unknown}, but the branch has losses {list(raw)}.")
        return {name: loss * self.weights.get(name, 1.0) for name, loss in raw.items()}

    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Nothing to learn from past losses."""
