"""HCRA-R: GIoU whose pairs count by overlap, offset and agreement with the class score (HCRAL, arXiv:2408.17182,
Eqs. 1 and 7 to 10).

Letters: M pairs.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import Matched, Normalizer

from .factors import PairFactors
from .iou_kinds import iou_loss
from .pair_weight import PairWeight, host_factor, require_pair_weight, weighted_mean
from .running import RunningMean

RCINorm = Literal["ratio", "blend", "scalar", "none"]
Factor = Literal["overlap", "offset", "iou"]


def rci_reg(
    score: Float[Tensor, "M"], iou: Float[Tensor, "M"], alpha: float = 0.1, ep: float = 0.001
) -> Float[Tensor, "M"]:
    """Eq. 8: q = (a^2 + IoU^2 + ep) / (2 a IoU + ep), a = score + alpha, where score - IoU + alpha >= 0, else 1 / q.

    At least 1 where the score is too high for the box, in (0, 1) where the box is better than the score. alpha: +.1,
    the intercept that the paper's Figure 3 draws and its Table 3 lists as -.1; with -.1 in Eq. 8 the value would be
    negative for fresh scores. a is clamped below at 0, so that no alpha makes it negative.
    """
    a = (score + alpha).clamp(min=0)
    squares, product = a**2 + iou**2 + ep, 2 * a * iou + ep
    return torch.where(score - iou + alpha >= 0, squares / product, product / squares)


def conditioning(
    iou: Float[Tensor, "M"],
    boxes: Float[Tensor, "M 4"],
    targets: Float[Tensor, "M 4"],
    gamma: float = 1.2,
    factors: tuple[Factor, ...] = ("overlap", "offset", "iou"),
) -> Float[Tensor, "M"]:
    """Eq. 7: exp(-IoU^2 / gamma) * exp(R) * IoU, R the squared distance of the centers by the hull's squared diagonal.

    The paper prints the distance without its square, which would depend on the size of the image; DIoU, that it names,
    has the square. overlap * iou is highest at IoU = sqrt(gamma / 2). factors: which of the three are there.
    """
    value = torch.ones_like(iou)
    if "overlap" in factors:
        value = value * torch.exp(-(iou**2) / gamma)
    if "offset" in factors:
        low, high = torch.minimum(boxes[:, :2], targets[:, :2]), torch.maximum(boxes[:, 2:], targets[:, 2:])
        distance = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
        value = value * torch.exp((distance**2).sum(-1) / (((high - low) ** 2).sum(-1) + 1e-7))
    return value * iou if "iou" in factors else value


class HCRAR(nn.Module):
    """HCRA-R: mean of r * CF * (1 - GIoU) over the pairs; r and CF without gradient.

    gamma, factors: see `conditioning`; 1.2 is the paper's for RetinaNet, and 1.5 what "the weight" of its sentence on
    ATSS most likely is. alpha, ep: see `rci_reg`. rci: False leaves Eq. 8 out (Table 3's last row).

    norm: what r is, as Eq. 9 smooths a number a step and Eq. 10 multiplies one a pair. ratio: a pair's RCI by the
    running mean, updated first, as Wise-IoU does whose name r is. blend: (1 - momentum) * mean + momentum * RCI, Eq. 9
    read for each pair. scalar: the mean itself for all, the letter of Eq. 10, which ends the weighing of pairs. none:
    the RCI. momentum, initial: of that mean, which the paper does not give; Wise-IoU's. rci_max: an RCI above counts
    as this one (a pair with a high score and IoU 0 has a thousand); None has no limit.

    iou_floor: CF's factor IoU is at least this. At 0 a pair that does not overlap gets no gradient at all, and GIoU's
    pull on disjoint boxes is lost; boxes that hold their point, as distance heads predict them, always overlap.
    weight, normalizer, least: see `weighted_mean`; the host's own weight of pairs stays (ATSS: centerness).

    The running mean is the state. It changes at each forward in training mode that saw a pair, once, in eval mode
    never. Two outputs need two instances.
    """

    def __init__(
        self,
        gamma: float = 1.2,
        alpha: float = 0.1,
        ep: float = 0.001,
        weight: PairWeight = "none",
        *,
        norm: RCINorm = "ratio",
        momentum: float = 0.01,
        initial: float = 1.0,
        rci: bool = True,
        rci_max: float | None = None,
        factors: tuple[Factor, ...] = ("overlap", "offset", "iou"),
        iou_floor: float = 0.0,
        normalizer: Normalizer = "reduced",
        least: float = 1.0,
        eps: float = 1e-7,
    ) -> None:
        super().__init__()
        require_pair_weight("HCRAR", weight)
        if norm not in get_args(RCINorm) or not set(factors) <= set(get_args(Factor)):
            raise ValueError(f"HCRAR knows norm {get_args(RCINorm)} and factors {get_args(Factor)}, "
                             f"got {norm!r}, {factors}.")
        if gamma <= 0 or ep <= 0:
            raise ValueError(f"HCRAR expected gamma and ep above 0, got {gamma}, {ep}.")
        self.gamma, self.alpha, self.ep, self.weight, self.norm = gamma, alpha, ep, weight, norm
        self.rci, self.rci_max, self.factors, self.iou_floor = rci, rci_max, factors, iou_floor
        self.normalizer, self.least, self.eps = normalizer, least, eps
        self.mean = RunningMean(momentum, initial)

    def forward(self, matched: Matched) -> Float[Tensor, ""]:
        factor = self._conditioning(matched)
        if self.rci:
            rci, before = self._residual(matched), self.mean.value.clone()
            if self.norm != "none":
                self.mean.update(rci)
            factor = factor * self._gain(rci, before, self.mean.value)
        rows = iou_loss(matched.boxes, matched.target_boxes, "giou", self.eps)
        return weighted_mean(rows * factor, matched, self.weight, self.normalizer, self.least)

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """CF_reg (Eq. 7), r (Eq. 10) and u, the host's weight of the pair; RCI_reg (Eq. 8) as a detail."""
        factors, details = {"CF_reg": self._conditioning(matched)}, {}
        if self.rci:
            rci = self._residual(matched)
            factors["r"] = self._gain(rci, self.mean.value, self.mean.after(rci))
            details["RCI_reg"] = rci
        return PairFactors(factors | host_factor(matched, self.weight), details)

    def _conditioning(self, matched: Matched) -> Float[Tensor, "M"]:
        iou = matched.iou.detach().clamp(0, 1).clamp(min=self.iou_floor)
        return conditioning(iou, matched.boxes.detach(), matched.target_boxes, self.gamma, self.factors)

    def _residual(self, matched: Matched) -> Float[Tensor, "M"]:
        score, iou = matched.probability.detach(), matched.iou.detach().clamp(0, 1)
        rci = rci_reg(score, iou, self.alpha, self.ep)
        return rci if self.rci_max is None else rci.clamp(max=self.rci_max)

    def _gain(self, rci: Float[Tensor, "M"], before: Tensor, after: Tensor) -> Float[Tensor, "M"]:
        """r of each pair, from the running mean before and after this step."""
        if self.norm == "none":
            return rci
        after = after.to(rci.dtype)
        if self.norm == "blend":
            return (1 - self.mean.momentum) * before + self.mean.momentum * rci
        return rci / after if self.norm == "ratio" else after.expand_as(rci)
