"""The background beside bags: what an anchor learns for every class that it does not find.

Letters: B images, P priors, C classes, M pairs, G objects of an image, E entries (an image, a prior and a class each).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from bifocals.structures import Matched, pairwise_iou, sum_over_ranks, world_size

from .multiple_anchor import Select, num_selected

LEAST, MOST = 1e-12, 1 - 1e-7
"""Where the probability of a negative is cut; beyond there is no gradient."""


@dataclass(frozen=True)
class Entries:
    """Entries of [B, P, C], each once, and the share in [0, 1] of each that is no background."""

    image: Int64[Tensor, "E"]
    prior: Int64[Tensor, "E"]
    label: Int64[Tensor, "E"]
    share: Float[Tensor, "E"]


def background(matched: Matched, entries: Entries, gamma: float) -> Tensor:
    """Sum over all priors, classes and images of z^gamma * -log(1 - z), z = p (1 - share): FreeAnchor's Eq. 8.

    Nearly all entries have no share, so all are summed as background in few passes over [B, P, C], and the few are
    corrected. Ignored priors do not count.
    """
    logits, counted = matched.output.logits, matched.counted
    few = logits[entries.image, entries.prior, entries.label]  # [E]
    z = (few.sigmoid() * (1 - entries.share)).clamp(LEAST, MOST)
    correction = z**gamma * -torch.log1p(-z) - surprise(few, gamma)
    everything = surprise(logits, gamma)
    if counted is not None:
        everything = everything * counted[..., None]
        correction = correction * counted[entries.image, entries.prior]
    return everything.sum() + correction.sum()


def surprise(logits: Tensor, gamma: float) -> Tensor:
    """z^gamma * -log(1 - z) of z = sigmoid(logits), cut to [LEAST, MOST]."""
    logits = logits.clamp(math.log(LEAST), math.log(MOST) - math.log(1 - MOST))
    return logits.sigmoid() ** gamma * F.softplus(logits)


def merge(parts: Sequence[tuple[Tensor, Tensor, Tensor]], num_classes: int) -> Entries:
    """(prior, label, share) of each image as entries; of those that occur more than once, the largest share."""
    image, prior, label, share = [], [], [], []
    for i, (priors, labels, shares) in enumerate(parts):
        key, place = (priors * num_classes + labels).unique(return_inverse=True)
        image.append(torch.full_like(key, i))
        prior.append(key // num_classes)
        label.append(key % num_classes)
        share.append(shares.new_zeros(len(key)).scatter_reduce(0, place, shares, "amax"))
    return Entries(torch.cat(image), torch.cat(prior), torch.cat(label), torch.cat(share))


@dataclass(frozen=True)
class SoftNegatives:
    """Every anchor is background for every class, but the less so the better its decoded box fits an object of it.

    The share of an anchor that is no background for a class is (IoU - t1) / (best IoU of the object - t1), cut to
    [0, 1], the largest over the objects of the class: 0 up to t1 = `threshold`, 1 for the best box of an object. It
    carries no gradient. Anchors in bags are no exception, and no zone is ignored (FreeAnchor, arXiv:1909.02466; the
    release of MAL, whose paper leaves its negatives at "Focal Loss"). Divided by the pairs of all bags.
    """

    gamma: float = 2.0
    threshold: float = 0.6

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 <= self.threshold < 1:
            raise ValueError(f"SoftNegatives expected gamma of 0 or more and a threshold in [0, 1), got {self.gamma} "
                             f"and {self.threshold}.")

    def __call__(self, matched: Matched) -> Tensor:
        return background(matched, self.entries(matched), self.gamma) / matched.num_positive

    @torch.no_grad()
    def entries(self, matched: Matched) -> Entries:
        """The entries with a share; one image at a time, for memory."""
        parts = []
        for target, boxes in zip(matched.targets, matched.output.boxes.detach(), strict=True):
            iou = pairwise_iou(target.boxes, boxes)  # [G, P]
            gt, prior = torch.nonzero(iou > self.threshold, as_tuple=True)
            # Cut at 1e-6, because t1 + 1e-12 is t1 in float32.
            span = (iou.amax(dim=1) - self.threshold).clamp(min=1e-6)  # [G]
            share = ((iou[gt, prior] - self.threshold) / span[gt]).clamp(max=1)
            parts.append((prior, target.labels[gt], share))
        return merge(parts, matched.output.num_classes)


@dataclass
class IoUNegatives:
    """The paper's words taken literally: background is what no object's bag holds and no object overlaps.

    An anchor is left out for the class of an object if it is in its bag, chosen or not, or if their IoU, as the anchor
    stands, is `least` or more; it is background for every other class. Divided by the number of chosen anchors
    ("the loss for negative anchors follows the Focal Loss", MAL, section 3.2, where that loss is divided by positives).

    k and select: as of the `BagLoss` beside it, whose clock it shares.
    """

    k: int = 50
    select: Select = "topn"
    gamma: float = 2.0
    least: float = 0.4
    selected: int = field(init=False)

    def __post_init__(self) -> None:
        if self.gamma < 0 or not 0 < self.least <= 1:
            raise ValueError(f"IoUNegatives expected gamma of 0 or more and least in (0, 1], got {self.gamma} and "
                             f"{self.least}.")
        self.selected = num_selected(self.select, self.k, 0, 1)

    def set_step(self, step: int, total: int) -> None:
        self.selected = num_selected(self.select, self.k, step + 1, total)

    def __call__(self, matched: Matched) -> Tensor:
        of_object = matched.matches.image * 2**32 + matched.matches.gt
        sizes = torch.unique_consecutive(of_object, return_counts=True)[1]
        chosen = sum_over_ranks(sizes.clamp(max=self.selected).sum().to(matched.output.logits.dtype))
        divisor = chosen.clamp(min=1) / world_size()
        return background(matched, self.entries(matched), self.gamma) / divisor

    @torch.no_grad()
    def entries(self, matched: Matched) -> Entries:
        """The entries that are left out."""
        anchors = matched.output.priors.boxes
        if anchors is None:
            raise ValueError("IoUNegatives expected priors with boxes, got points alone: it belongs to an anchor head.")
        parts = []
        for i, target in enumerate(matched.targets):
            near_gt, near = torch.nonzero(pairwise_iou(target.boxes, anchors) >= self.least, as_tuple=True)
            match = matched.matches.of_image(i)
            prior, gt = torch.cat([near, match.prior]), torch.cat([near_gt, match.gt])
            parts.append((prior, target.labels[gt], torch.ones(len(prior), device=prior.device)))
        return merge(parts, matched.output.num_classes)
