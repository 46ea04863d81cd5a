"""GHM-C: cross-entropy of logits that each count the less, the more others have a gradient like theirs.

arXiv:1811.05181; HCRAL (arXiv:2408.17182) repeats it in Eq. 2. The gradient norm of a logit is g = |p - p*|; the unit
interval is cut in bins, and an element of a bin that holds `count` of `total` elements weighs
beta = total / (count * number of bins).

Letters: B images, P priors, C classes, M pairs, K bins.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bifocals.structures import Matched, sum_over_ranks, world_size

from .entries import counted_pairs, entry_index
from .factors import PairFactors

BinNorm = Literal["nonempty", "all"]
FirstVisit = Literal["count", "zero"]


class GradientDensity(nn.Module):
    """From how many elements fall in each bin to the weight of an element of each bin.

    bins: K. momentum: the counts are smoothed over the steps, count <- momentum * count + (1 - momentum) * now; an
    empty bin keeps what it had. 0 looks at this step alone. bin_norm: the number of bins that the weights are divided
    by; the formula says "all" bins, the authors' code takes those that are not empty and calls that more reasonable.
    first_visit: "count" starts a bin at its first count; "zero" starts at 0 as the release does, which weighs the
    elements of the first steps 1 / (1 - momentum) times as much. reduced: counts are summed over ranks, so that two
    processes do what one does; the release counts for each process alone.

    The smoothed counts are the state. They change at each forward in training mode, once; in eval mode they are used
    and left as they are.
    """

    counts: Tensor

    def __init__(
        self,
        bins: int = 30,
        momentum: float = 0.75,
        bin_norm: BinNorm = "nonempty",
        first_visit: FirstVisit = "count",
        reduced: bool = True,
    ) -> None:
        super().__init__()
        if bins < 1 or not 0 <= momentum < 1:
            raise ValueError(f"GradientDensity expected 1 bin or more and a momentum from 0 to below 1, "
                             f"got {bins}, {momentum}.")
        if bin_norm not in get_args(BinNorm) or first_visit not in get_args(FirstVisit):
            raise ValueError(f"GradientDensity knows bin_norm {get_args(BinNorm)} and first_visit "
                             f"{get_args(FirstVisit)}, got {bin_norm!r}, {first_visit!r}.")
        self.bins, self.momentum, self.bin_norm, self.first_visit = bins, momentum, bin_norm, first_visit
        self.reduced = reduced
        self.register_buffer("counts", torch.zeros(bins))

    def forward(self, counts: Int64[Tensor, "K"]) -> tuple[Float[Tensor, "K"], Float[Tensor, ""]]:
        """Weight of an element of each bin (0 for an empty one), and what to divide the weighted sum by."""
        weights, divisor, smooth = self._weigh(counts)
        if self.training and self.momentum > 0:
            self.counts.copy_(smooth)
        return weights, divisor

    def peek(self, counts: Int64[Tensor, "K"]) -> Float[Tensor, "K"]:
        """The weights that `forward` would give; the state stays as it is."""
        return self._weigh(counts)[0]

    @torch.no_grad()
    def _weigh(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, divisor and smoothed counts."""
        if self.reduced:
            counts = sum_over_ranks(counts)
        ranks = world_size() if self.reduced else 1
        now = counts.to(self.counts.dtype)
        total, occupied = now.sum().clamp(min=1), counts > 0
        smooth = self._smooth(now, occupied)
        number = occupied.sum().clamp(min=1) if self.bin_norm == "nonempty" else self.bins
        return torch.where(occupied, total / smooth, 0) / number, total / ranks, smooth

    def _smooth(self, now: Tensor, occupied: Tensor) -> Tensor:
        if self.momentum == 0:
            return now
        if not self.training:
            return torch.where(self.counts > 0, self.counts, now)
        mixed = self.momentum * self.counts + (1 - self.momentum) * now
        if self.first_visit == "count":
            mixed = torch.where(self.counts > 0, mixed, now)
        return torch.where(occupied, mixed, self.counts)


def harmonized(
    matched: Matched,
    density: GradientDensity,
    mine: Bool[Tensor, "M"],
    positive: Float[Tensor, "M"] | None = None,
    negative: Float[Tensor, "B P"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of all logits against 0 and 1, each times its beta and its factor, divided by their number.

    mine: the pairs that stand for their (image, prior, class), one each. positive: a factor for the logit of each
    such pair. negative: a factor of each prior for its logits of the classes that it answers for no object of. Ignored
    priors neither count in the bins nor cost. No weight carries gradient.
    """
    logits, num_classes = matched.output.logits.reshape(-1), matched.output.num_classes
    with torch.no_grad():
        entries, mine = entry_index(matched), counted_pairs(matched, mine)
        probability, bins, own_bins, counts = _histogram(matched, density.bins, entries, mine)
        beta, total = density(counts)
        weight = torch.cat([beta, beta.new_zeros(1)]).to(logits.dtype).index_select(0, bins)
        weight[entries] = 0
        if negative is not None:
            weight.view(-1, num_classes).mul_(negative.reshape(-1, 1))
        own_weight = beta[own_bins].to(logits.dtype) * mine
        if positive is not None:
            own_weight = own_weight * positive
    return WeightedCrossEntropy.apply(logits, probability, weight, entries, own_weight) / total


@torch.no_grad()
def own_beta(
    matched: Matched, density: GradientDensity, mine: Bool[Tensor, "M"], copies: int = 1
) -> Float[Tensor, "M"]:
    """beta of the logit of each pair as `harmonized` would take it, 0 for pairs that stand for none; no state changes.

    copies: see `Weighing`.
    """
    mine = counted_pairs(matched, mine)
    _, _, own_bins, counts = _histogram(matched, density.bins, entry_index(matched), mine)
    return density.peek(counts * copies)[own_bins].to(matched.output.logits.dtype) * mine


def _histogram(
    matched: Matched, num_bins: int, entries: Int64[Tensor, "M"], mine: Bool[Tensor, "M"]
) -> tuple[Tensor, Tensor, Int64[Tensor, "M"], Int64[Tensor, "K"]]:
    """Probabilities and bins of all logits as background, the bins of the pairs' own, and how many each bin holds."""
    # As in focal.py all elements are background first: the bin of p is the bin of g = |p - 0|.
    probability = matched.output.logits.reshape(-1).sigmoid()
    bins = (probability * num_bins).to(torch.int32).clamp_(0, num_bins - 1)
    if matched.counted is not None:  # ignored ones have a bin of their own, without weight
        bins.view(-1, matched.output.num_classes).masked_fill_(~matched.counted.reshape(-1, 1), num_bins)
    counts = bins.bincount(minlength=num_bins + 1)
    own_bins = ((1 - probability[entries]) * num_bins).long().clamp_(0, num_bins - 1)
    counts.index_add_(0, bins[entries].long(), -mine.long()).index_add_(0, own_bins, mine.long())
    return probability, bins, own_bins, counts[:num_bins]


class WeightedCrossEntropy(torch.autograd.Function):
    """Sum of weight * -ln(1 - p) over all logits, plus own_weight * -ln p over those at `entries`.

    A function of its own because the gradient is weight * p, which the forward has at hand: half as many passes over
    [B, P, C] as automatic differentiation takes. An entry may stand in `entries` twice; then both count. `weight` is 0
    at the entries.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, probability: Tensor, weight: Tensor, entries: Tensor, own_weight: Tensor
    ) -> Tensor:
        background = F.softplus(logits).mul_(weight).sum()
        own = (F.softplus(-logits[entries]) * own_weight).sum()
        slope = weight.mul_(probability)  # in place: the weights are ours and not needed again
        slope.index_add_(0, entries, (probability[entries] - 1) * own_weight)
        ctx.save_for_backward(slope)
        return background + own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * gradient, None, None, None, None


class GHM(nn.Module):
    """GHM-C (arXiv:1811.05181, Eq. 8): cross-entropy harmonized by gradient density, mean over the counted elements.

    A prior is positive for the classes of the objects it is matched with. All levels and images make one histogram;
    the release makes one for each level, in the order of levels, with one state for all. bins, momentum and further
    options: see `GradientDensity`; the defaults are those of the authors' RetinaNet. They clip gradients at 35.
    """

    def __init__(
        self,
        bins: int = 30,
        momentum: float = 0.75,
        bin_norm: BinNorm = "nonempty",
        first_visit: FirstVisit = "count",
        reduced: bool = True,
    ) -> None:
        super().__init__()
        self.density = GradientDensity(bins, momentum, bin_norm, first_visit, reduced)

    def forward(self, matched: Matched) -> Float[Tensor, ""]:
        return harmonized(matched, self.density, matched.first_of_class)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """beta."""
        return PairFactors({"beta": own_beta(matched, self.density, matched.first_of_class, copies)})
