"""A few priors of an image instead of all: the samplers of Faster R-CNN (arXiv:1506.01497) and Libra R-CNN
(arXiv:1904.02701, section 3.1).

Letters: P priors, M pairs, N candidates of a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bifocals.structures import Assigner, Match, Prediction, Priors, Target

PositiveDraw = Literal["random", "instance_balanced"]
NegativeDraw = Literal["random", "iou_balanced"]
BinRule = Literal["faithful", "paper"]


@runtime_checkable
class HasOverlaps(Protocol):
    """An assigner that tells the IoU of every prior with every object, -1 for priors that take no part."""

    def overlaps(self, priors: Priors, target: Target) -> Float[Tensor, "P G"]: ...


@dataclass(frozen=True)
class Sampled:
    """Draws `num` priors from the match of another assigner and ignores the rest.

    At most `num * positive_share` of them have an object; background fills the others, but at most `neg_pos_ub` times
    as many as those with an object, one at least counted (Libra's RPN: 5; -1 has no limit). An image with few
    candidates gives fewer.

    positives: "random", or "instance_balanced": every object with pairs gives round(wanted / objects) + 1 of them
    first, and a random choice of the rest or of these makes up the number.
    negatives: "random", or "iou_balanced": the interval of the IoU with the best object is cut into `bins` equal parts,
    each part gives wanted / bins first, rounded down, and a random choice of the rest fills up. It needs an assigner
    with `overlaps`.
    bin_rule: where these parts lie. "paper" cuts [0, `reach`), reach being the threshold of background. "faithful" does
    as the release: it cuts [0, best IoU of all priors), and as the boxes of the objects are among the proposals, that
    is [0, 1) and the last of three parts is always empty; priors that touch no object only fill up.

    The draws come from torch's global generator, first the positives', then the background's, over their ascending
    numbers: with both at random, a seed that is shared with torchvision's `BalancedPositiveNegativeSampler` gives its
    sample.
    """

    assigner: Assigner
    num: int = 256
    positive_share: float = 0.5
    neg_pos_ub: float = -1
    positives: PositiveDraw = "random"
    negatives: NegativeDraw = "random"
    bin_rule: BinRule = "faithful"
    bins: int = 3
    reach: float = 0.5

    def __post_init__(self) -> None:
        if self.num < 1 or not 0 <= self.positive_share <= 1:
            raise ValueError(f"Sampled expected num of 1 or more and positive_share in [0, 1], got {self.num} and "
                             f"{self.positive_share}.")
        for name, kinds in (("positives", PositiveDraw), ("negatives", NegativeDraw), ("bin_rule", BinRule)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"Sampled expected {name} of {get_args(kinds)}, got {getattr(self, name)!r}.")
        if self.bins < 1 or not 0 < self.reach <= 1:
            raise ValueError(f"Sampled expected bins of 1 or more and reach in (0, 1], got {self.bins} and "
                             f"{self.reach}.")
        if self.negatives == "iou_balanced" and not isinstance(self.assigner, HasOverlaps):
            raise ValueError(f"Sampled with iou_balanced negatives expected an assigner with overlaps, got "
                             f"{type(self.assigner).__name__}; MaxIoU has them.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        match = self.assigner(priors, target, prediction)  # type: ignore[arg-type]  # most look at no prediction
        matched = torch.zeros(len(priors), dtype=torch.bool, device=match.prior.device)
        matched[match.prior] = True
        background = ~matched if match.ignore is None else ~(matched | match.ignore)
        positive, negative = matched.nonzero()[:, 0], background.nonzero()[:, 0]  # the only waits for the device

        num_positive = min(len(positive), int(self.num * self.positive_share))
        num_negative = self.num - num_positive
        if self.neg_pos_ub >= 0:
            num_negative = min(num_negative, int(self.neg_pos_ub * max(1, num_positive)))

        sampled = torch.zeros_like(matched)
        sampled[self._positives(match, positive, num_positive, len(priors))] = True
        sampled[self._negatives(priors, target, negative, num_negative)] = True
        if num_positive == len(positive):  # all of them: spares a boolean index, which waits
            return Match(match.prior, match.gt, ~sampled)
        keep = sampled[match.prior]
        return Match(match.prior[keep], match.gt[keep], ~sampled)

    def _positives(self, match: Match, positive: Int64[Tensor, "N"], num: int, num_priors: int) -> Tensor:
        if self.positives == "random" or len(positive) <= num:
            return positive[torch.randperm(len(positive), device=positive.device)[:num]]
        gt_of_prior = match.gt.new_zeros(num_priors)
        gt_of_prior[match.prior] = match.gt
        gt = gt_of_prior[positive]  # [N]
        rank, objects = _random_rank(gt)
        return _fill(positive, (rank > (num / objects).round()).long(), num)

    def _negatives(self, priors: Priors, target: Target, negative: Int64[Tensor, "N"], num: int) -> Tensor:
        if self.negatives == "random" or len(negative) <= num or len(target.boxes) == 0:
            return negative[torch.randperm(len(negative), device=negative.device)[:num]]
        assert isinstance(self.assigner, HasOverlaps)
        best = self.assigner.overlaps(priors, target).amax(dim=1)  # [P]
        iou = best[negative]  # [N]
        faithful = self.bin_rule == "faithful"
        reach = best.amax().clamp(min=1e-6) if faithful else self.reach
        part = (iou / reach * self.bins).long()
        # The release's last part ends below the best IoU, and what touches no object lies in no part at all.
        part = torch.where(iou > 0, part, self.bins) if faithful else part.clamp(max=self.bins - 1)
        rank, _ = _random_rank(part)
        tier = ((rank >= num // self.bins) | (part >= self.bins)).long()
        tier = torch.where(iou > 0, tier, 2) if faithful else tier
        return _fill(negative, tier, num)


def _random_rank(group: Int64[Tensor, "N"]) -> tuple[Int64[Tensor, "N"], Int64[Tensor, ""]]:
    """Each candidate's place in a random order of its group, from 0, and the number of groups; no wait."""
    order = torch.randperm(len(group), device=group.device)
    ordered, by_group = group[order].sort(stable=True)
    start = torch.searchsorted(ordered, ordered)
    place = torch.arange(len(group), device=group.device)
    rank = torch.empty_like(group).scatter_(0, order[by_group], place - start)
    return rank, (place == start).sum()


def _fill(candidates: Int64[Tensor, "N"], tier: Int64[Tensor, "N"], num: int) -> Int64[Tensor, "num"]:
    """`num` of the candidates, those of a low tier first, at random within a tier."""
    order = torch.randperm(len(candidates), device=candidates.device)
    return candidates[order[tier[order].sort(stable=True).indices[:num]]]
