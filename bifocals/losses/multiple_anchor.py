"""Losses of bags: every object learns from some of its anchors, chosen by how well they do (MAL, arXiv:1912.02252).

Called `multiple_anchor` because another loss of 2024 is called MAL too.
Letters: M pairs, G bags (objects with pairs), K anchors of the largest bag.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bifocals.structures import DeltaCoder, Matched, sum_over_ranks, world_size

Select = Literal["topn", "mean_max", "all", "max"]
"""Which anchors of a bag learn: the n best, n falling from all to one over training (MAL, Eq. 5); all, each by a weight
that grows as it does well (FreeAnchor's Mean-max, arXiv:1909.02466, Eq. 7); all alike; the best alone."""

Aggregate = Literal["mean_nll", "nll_mean"]
"""What becomes of the chosen ones: the mean of -log s, or -log of the mean of s."""


def num_selected(select: Select, k: int, t: int, total: int) -> int:
    """n: how many of `k` anchors learn in step `t` of `total`, from 1.

    Eq. 5 has k (1 - t / T) + 1; rounded down it gives each of k .. 1 a k-th of the steps, and 1 to the last. Integers
    give every n the same steps on any machine. Mean-max weighs all k.
    """
    if select == "topn":
        return min(k, k * (total - t) // total + 1)
    return 1 if select == "max" else k


def mean_of_best(
    nll: Float[Tensor, "G K"], n: int, aggregate: Aggregate = "mean_nll", real: Bool[Tensor, "G K"] | None = None
) -> Float[Tensor, "G"]:
    """The loss of each bag from its n smallest -log s; the others get no gradient.

    real: which entries are anchors, in bags of unequal size; a bag of fewer than n gives all it has.
    """
    if real is None:
        real = torch.ones_like(nll, dtype=torch.bool)
    best, place = nll.masked_fill(~real, torch.inf).topk(min(n, nll.shape[1]), dim=1, largest=False)
    chosen = real.gather(1, place)
    count = chosen.sum(dim=1)
    if aggregate == "mean_nll":
        return torch.where(chosen, best, 0).sum(dim=1) / count
    return count.log() - torch.logsumexp(-best, dim=1)


def mean_max(nll: Float[Tensor, "G K"], real: Bool[Tensor, "G K"] | None = None) -> Float[Tensor, "G"]:
    """-log of the mean of s = exp(-nll) with weights 1 / (1 - s) (FreeAnchor, Eq. 7): near the mean of s while all
    are small, near the best once one is large. The weights carry gradient; 1 - s is cut at 1e-12.

    real: which entries are anchors, in bags of unequal size.
    """
    if real is None:
        real = torch.ones_like(nll, dtype=torch.bool)
    weight = (-_log_of_complement(nll)).masked_fill(~real, -torch.inf).softmax(dim=1)
    # Relative to the best of the bag, so that nothing underflows however poor all are.
    best = nll.masked_fill(~real, torch.inf).amin(dim=1, keepdim=True).detach()
    loss = best[:, 0] - (weight * (best - nll).exp().masked_fill(~real, 0)).sum(dim=1).log()
    # A bag as good as certain in this precision has nothing to learn, and its weights would scale up rounding errors.
    return loss.masked_fill(loss < torch.finfo(loss.dtype).eps, 0)


def _log_of_complement(nll: Tensor) -> Tensor:
    """log(1 - exp(-nll)), of which the one form is exact, in value and gradient, for large nll and the other for small.
    """
    large = torch.log1p(-(-nll.clamp(min=math.log(2))).exp())
    small = (-torch.expm1(-nll.clamp(max=math.log(2)))).clamp(min=1e-12).log()
    return torch.where(nll > math.log(2), large, small)


@dataclass
class BagLoss:
    """What the objects learn from their bags, mean over the objects of all processes. For pairs of `assign.Bags`.

    An anchor's score is s = p exp(-box_weight * l), p the probability of the object's class and l the smooth L1 of its
    deltas, four coordinates summed: -log s is the detection loss of Eq. 4 with cross-entropy, so the best by score are
    the best by loss. It is not focal: a focal loss of the one anchor that is left would vanish as it gets sure.

    k: anchors of a bag, for the schedule of `select`. aggregate: of all selections but mean_max. coder: the one that
    the predictor decodes with.
    """

    k: int = 50
    select: Select = "topn"
    aggregate: Aggregate = "mean_nll"
    box_weight: float = 0.75
    smooth_l1_beta: float = 0.11
    coder: DeltaCoder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    selected: int = field(init=False)
    """n of the current step; k before the clock was ever set."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.box_weight < 0 or self.smooth_l1_beta < 0:
            raise ValueError(f"BagLoss expected k of 1 or more, box_weight and smooth_l1_beta of 0 or more, got "
                             f"{self.k}, {self.box_weight} and {self.smooth_l1_beta}.")
        if self.select not in get_args(Select):
            raise ValueError(f"BagLoss knows the selections {get_args(Select)}, got {self.select!r}.")
        if self.aggregate not in get_args(Aggregate):
            raise ValueError(f"BagLoss knows the aggregates {get_args(Aggregate)}, got {self.aggregate!r}.")
        self.selected = num_selected(self.select, self.k, 0, 1)

    def set_step(self, step: int, total: int) -> None:
        """The engine counts finished steps from 0, Eq. 5 is in steps from 1: t = step + 1."""
        self.selected = num_selected(self.select, self.k, step + 1, total)

    def scheduled(self) -> dict[str, float]:
        """n of the current step."""
        return {"selected": float(self.selected)}

    def nll(self, matched: Matched) -> Float[Tensor, "M"]:
        """-log s of every pair, from logits, so that no product of small probabilities is ever formed."""
        logits = matched.logits.gather(1, matched.target_labels[:, None])[:, 0]
        targets = self.coder.encode(matched.anchors, matched.target_boxes)
        distance = F.smooth_l1_loss(matched.deltas, targets, beta=self.smooth_l1_beta, reduction="none").sum(dim=1)
        return F.softplus(-logits) + self.box_weight * distance

    def __call__(self, matched: Matched) -> Tensor:
        nll = self.nll(matched)
        objects = sum_over_ranks(nll.new_tensor(float(sum(len(t.labels) for t in matched.targets))))
        divisor = objects.clamp(min=1) / world_size()
        if len(nll) == 0:
            return nll.sum() / divisor  # 0, with a gradient of 0 for the parameters that DDP waits for
        place, real = bags(matched)
        if self.select == "mean_max":
            return mean_max(nll[place], real).sum() / divisor
        return mean_of_best(nll[place], self.selected, self.aggregate, real).sum() / divisor


def bags(matched: Matched) -> tuple[Int64[Tensor, "G K"], Bool[Tensor, "G K"]]:
    """The pairs of each bag, as their places in the list of pairs, and which of the entries are real.

    The pairs of an object follow each other. A bag with fewer than K pairs repeats its last one.
    """
    matches = matched.matches
    of_object = matches.image * 2**32 + matches.gt
    size = torch.unique_consecutive(of_object, return_counts=True)[1]
    slot = torch.arange(int(size.max()), device=size.device)
    first = size.cumsum(0) - size
    return first[:, None] + torch.minimum(slot, size[:, None] - 1), slot < size[:, None]
