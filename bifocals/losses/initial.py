"""A loss of the boxes before their refinement."""

from __future__ import annotations

from torch import Tensor, nn

from bifocals.structures import Loss, Matched

from .factors import PairFactors, Weighing


class Initial(nn.Module):
    """`loss` of the same pairs, with the boxes that the predictor had before it refined them (VarifocalNet).

    A loss with state needs an instance of its own here. ValueError for an output without initial boxes.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, matched: Matched) -> Tensor:
        return self.loss(_before(matched))

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """Those of the loss inside; none where it does not tell."""
        if not isinstance(self.loss, Weighing):
            return PairFactors({})
        return self.loss.pair_factors(_before(matched), copies)


def _before(matched: Matched) -> Matched:
    return Matched(matched.output.before_refinement(), matched.targets, matched.matches)
