"""HCRA-C: GHM-C whose logits also count by how well class score and box agree (HCRAL, arXiv:2408.17182, Eqs. 3 to 6).

The paper's equations contradict its text in places and no code of it is public: each reading is an option with a
reason, docs/methods/hcral.md weighs them.

Letters: B images, P priors, M pairs, N elements.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import Matched, pad_targets, pairwise_iou

from .entries import best_of_class
from .factors import PairFactors
from .ghm import BinNorm, FirstVisit, GradientDensity, harmonized, own_beta

RCIMode = Literal["intended", "printed", "swapped", "smooth", "tanh", "none"]
NegativeMode = Literal["printed", "exp", "product", "none"]
NegativeIoU = Literal["pred", "anchor", "zero"]


def rci_cls(
    score: Float[Tensor, "N"],
    iou: Float[Tensor, "N"],
    theta: float = 5.0,
    alpha: float = 0.0,
    mode: RCIMode = "intended",
) -> Float[Tensor, "N"]:
    """Eq. 5: what the logit of an object counts by its residual RCI = score - IoU + alpha, in [0, 1].

    intended: sigmoid(-theta RCI) where score <= IoU, else 0: the one consistent repair of the print, with score and
    IoU exchanged in condition and residual. It does what the text asks: attention to scores far below their IoU, less
    as they come near, none above. printed: sigmoid(theta RCI) where score > IoU, else 0: no object ever learns, as a
    fresh network's scores lie below all IoUs. swapped: only the inequality is exchanged; the weight is smallest where
    attention is asked for. smooth: sigmoid(-theta RCI) everywhere: no jump at score = IoU, and scores are pushed on
    above it. tanh: tanh(-theta RCI / 2) where score <= IoU, else 0: no jump and 0 at score = IoU, as the text has it,
    but further from the print. none: 1 (the paper's ablation, Table 1).
    """
    residual = score - iou + alpha
    below = score <= iou
    match mode:
        case "intended":
            return below * torch.sigmoid(-theta * residual)
        case "printed":
            return ~below * torch.sigmoid(theta * residual)
        case "swapped":
            return below * torch.sigmoid(theta * residual)
        case "smooth":
            return torch.sigmoid(-theta * residual)
        case "tanh":
            return below * torch.tanh(-theta * residual / 2).clamp(min=0)
        case "none":
            return torch.ones_like(residual)
    raise ValueError(f"rci_cls knows the modes {get_args(RCIMode)}, got {mode!r}.")


def negative_omega(iou: Float[Tensor, "*N"], mu: float = 0.7, mode: NegativeMode = "printed") -> Float[Tensor, "*N"]:
    """Eq. 3 where there is no object: what a background logit counts by the IoU of its box with any object.

    printed: 1 - IoU (IoU - mu)^2, all but flat. exp: 1 - IoU^((IoU - mu)^2), which falls from 1 to 0 at mu as the
    text asks, and is what the print would be with one superscript lost; but it takes all gradient from logits of
    a well placed box. product: (1 - IoU) (IoU - mu)^2, which falls too but starts at mu^2. none: 1.
    """
    match mode:
        case "printed":
            return 1 - iou * (iou - mu) ** 2
        case "exp":
            return 1 - iou ** ((iou - mu) ** 2)
        case "product":
            return (1 - iou) * (iou - mu) ** 2
        case "none":
            return torch.ones_like(iou)
    raise ValueError(f"negative_omega knows the modes {get_args(NegativeMode)}, got {mode!r}.")


class HCRAC(nn.Module):
    """HCRA-C: sum of omega * beta * RCI_cls * cross-entropy over all logits, all weights without gradient.

    The paper's values: theta 5, bins (its M) 20, mu .7. beta is GHM's, from |p - p*| before the other weights.

    theta, alpha, rci: see `rci_cls`; the paper gives no alpha for classification. positive: omega of an object's logit,
    "iou" (Eq. 3) or "none" (1). mu, negative: see `negative_omega`. negative_iou: the IoU of a background box, which
    the paper leaves undefined: the best one of the predicted box with any object ("pred"), of the anchor ("anchor"),
    or 0 ("zero"). on_positive_anchors: also the logits of other classes at a prior that answers for an object get the
    negative omega; by default they count fully, or modes that vanish at a high IoU would unlearn to tell classes apart.
    normalizer: "elements" divides by the number of counted logits, GHM's N, as Eq. 6 names no other; "positives" by
    that of positives, whose values are larger by the ratio of the two. bins, momentum, bin_norm, first_visit, reduced:
    see `GradientDensity`, which also says when the state changes.
    """

    def __init__(
        self,
        theta: float = 5.0,
        mu: float = 0.7,
        bins: int = 20,
        momentum: float = 0.75,
        *,
        alpha: float = 0.0,
        rci: RCIMode = "intended",
        positive: Literal["iou", "none"] = "iou",
        negative: NegativeMode = "printed",
        negative_iou: NegativeIoU = "pred",
        on_positive_anchors: bool = False,
        normalizer: Literal["elements", "positives"] = "elements",
        bin_norm: BinNorm = "nonempty",
        first_visit: FirstVisit = "count",
        reduced: bool = True,
    ) -> None:
        super().__init__()
        _require("rci", rci, RCIMode)
        _require("positive", positive, Literal["iou", "none"])
        _require("negative", negative, NegativeMode)
        _require("negative_iou", negative_iou, NegativeIoU)
        _require("normalizer", normalizer, Literal["elements", "positives"])
        if theta < 0 or not 0 <= mu <= 1:
            raise ValueError(f"HCRAC expected theta of 0 or more and mu in [0, 1], got {theta}, {mu}.")
        self.theta, self.mu, self.alpha, self.rci = theta, mu, alpha, rci
        self.positive, self.negative, self.negative_iou = positive, negative, negative_iou
        self.on_positive_anchors, self.normalizer = on_positive_anchors, normalizer
        self.density = GradientDensity(bins, momentum, bin_norm, first_visit, reduced)

    def forward(self, matched: Matched) -> Float[Tensor, ""]:
        iou, own = self._own(matched)
        if self.positive == "iou":
            own = own * iou
        loss = harmonized(matched, self.density, best_of_class(matched, iou), own, self._background(matched))
        if self.normalizer == "elements":
            return loss
        counted = matched.output.logits.shape[:2].numel() if matched.counted is None else matched.counted.sum()
        return loss * (counted * matched.output.num_classes) / matched.num_positive

    def pair_factors(self, matched: Matched, copies: int = 1) -> PairFactors:
        """beta (Eq. 2), omega (Eq. 3) and RCI_cls (Eq. 5); CF_cls = beta * omega (Eq. 4) as a detail."""
        iou, rci = self._own(matched)
        beta = own_beta(matched, self.density, best_of_class(matched, iou), copies)
        omega = iou if self.positive == "iou" else torch.ones_like(iou)
        return PairFactors({"beta": beta, "omega": omega, "RCI_cls": rci}, {"CF_cls": beta * omega})

    def _own(self, matched: Matched) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
        """IoU and RCI of each pair."""
        iou, score = matched.iou.detach().clamp(0, 1), matched.probability.detach()
        return iou, rci_cls(score, iou, self.theta, self.alpha, self.rci)

    @torch.no_grad()
    def _background(self, matched: Matched) -> Float[Tensor, "B P"] | None:
        if self.negative == "none":
            return None
        omega = negative_omega(self._best_iou(matched), self.mu, self.negative)
        if not self.on_positive_anchors:
            omega[matched.matches.image, matched.matches.prior] = 1
        return omega

    def _best_iou(self, matched: Matched) -> Float[Tensor, "B P"]:
        if self.negative_iou == "pred":
            return matched.best_iou.clamp(0, 1)
        shape = matched.output.logits.shape[:2]
        anchors, (boxes, _, real) = matched.output.priors.boxes, pad_targets(matched.targets)
        if self.negative_iou == "zero" or boxes.shape[1] == 0:
            return matched.output.logits.new_zeros(shape)
        if anchors is None:
            raise ValueError("HCRAC expected priors with anchors for negative_iou 'anchor', got points; "
                             "'pred' and 'zero' need none.")
        return (pairwise_iou(anchors.expand(*shape, 4), boxes) * real[:, None, :]).amax(2)


def _require(name: str, value: str, kind: object) -> None:
    if value not in get_args(kind):
        raise ValueError(f"HCRAC knows {name} {get_args(kind)}, got {value!r}.")
