"""EATSS: ATSS and, for each object, a few more anchors that are as near (HCRAL, arXiv:2408.17182, Algorithm 1).

The paper leaves set and ranking of the additional anchors open: each reading is an option with a reason.

Letters: B images, P priors, N objects of the whole batch, K candidates of an object, X additional anchors of an object,
E pairs of an object and an anchor near it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bifocals.structures import DenseOutput, Match, Matches, Prediction, Priors, Target, paired_iou

from .atss import (
    ATSS,
    FAR,
    BatchObjects,
    Candidates,
    anchor_centers,
    center_inside,
    highest_iou_wins,
    overlaps,
)

Rank = Literal["difference", "product", "exponential"]
Levels = Literal["any", "near", "same"]
Overlap = Literal["anchor", "predicted"]

_BLOCK = 16


@dataclass(frozen=True)
class EATSS:
    """ATSS, then for each object the best `extras` of the anchors that are no farther than its farthest positive.

    In two passes, so that the order of the objects plays no part:

    1. Positives of each object by steps 1 to 3 of ATSS, before objects compete.
    2. An object's reach is the distance of the farthest of them (Dis_f); an object without any has no reach.
    3. Near it are all anchors within its reach, with centers more than .01 pixels inside the box, that are positive
       for no object of the image. The best `extras` by rank, fewer where there are fewer, become positive too; equal
       ones in the order of the anchors.
    4. An anchor that is positive for several objects takes the one of the highest IoU; who loses it, chooses no other.

    So every pair of ATSS stays, and 0 extras are ATSS itself.

    atss: the first pass, its padding and its crowd regions. levels: "any" pyramid level; "same", those that have
    positives of the object, or "near", those and the ones beside. The paper names none, and near the positives of the
    same level are hardly any others. inside: False also takes anchors whose centers lie outside, as the paper does not
    ask for it; heads that predict distances have no box for those.

    rank: "difference" IoU - distance_weight * d / reach, with a small weight as ATSS's code ranks its own variant
    "topk", so that distance decides among nested anchors of equal IoU; "product" IoU * (1 - d / reach); "exponential"
    IoU * exp(-d / reach). The paper says that rank consists of distance and IoU. overlap: IoU of the "anchor", as the
    algorithm's inputs are anchors and objects alone, or of the "predicted" box, as its text asks for high IoU and
    score. min_iou: least IoU of an additional anchor.
    """

    extras: int = 3
    atss: ATSS = field(default_factory=ATSS)
    rank: Rank = "difference"
    distance_weight: float = 1e-3
    levels: Levels = "any"
    inside: bool = True
    overlap: Overlap = "anchor"
    min_iou: float = 0.0

    def __post_init__(self) -> None:
        if self.extras < 0:
            raise ValueError(f"EATSS expected extras of 0 or more, got {self.extras}; it is a number of anchors of an "
                             "object.")
        for name, kind in (("rank", Rank), ("levels", Levels), ("overlap", Overlap)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"EATSS knows {name} {get_args(kind)}, got {getattr(self, name)!r}.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        """The match of one image; the prediction is looked at where `overlap` is "predicted" alone."""
        return self._match(priors, [target], None if prediction is None else prediction.boxes[None]).of_image(0)

    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput | None = None) -> Matches:
        """The matches of all images at once."""
        return self._match(priors, targets, None if output is None else output.boxes.detach())

    @torch.no_grad()
    def _match(self, priors: Priors, targets: Sequence[Target], boxes: Float[Tensor, "B P 4"] | None) -> Matches:
        if self.extras == 0:
            return self.atss.batch(priors, targets)
        objects, handicap = BatchObjects.of(targets), self.atss.handicap(priors, targets)
        candidates = self.atss.candidates(priors, objects, handicap)
        positive = self.atss.positive(priors, objects, candidates)
        # An anchor in a crowd region counts as far away; where one is positive all the same, it is no boundary.
        known = positive & (candidates.distance < FAR)
        reach = torch.where(known, candidates.distance, -1.0).amax(dim=1)
        owner, near, distance = _within(priors, objects, reach)
        out = None if handicap is None else handicap > 0
        stays = self._allowed(priors, objects, candidates, positive, owner, near)
        if out is not None:
            stays &= ~out[objects.image[owner], near]
        owner, near, distance = owner[stays], near[stays], distance[stays]
        more, real = self._best(priors, objects, owner, near, distance / reach[owner].clamp(min=1e-6), boxes)
        both = Candidates(*(torch.cat([getattr(candidates, name), getattr(more, name)], dim=1)
                            for name in ("prior", "distance", "iou")))
        return highest_iou_wins(objects, both, torch.cat([positive, real], dim=1), len(priors), out)

    def _allowed(
        self,
        priors: Priors,
        objects: BatchObjects,
        candidates: Candidates,
        positive: Bool[Tensor, "N K"],
        owner: Int64[Tensor, "E"],
        near: Int64[Tensor, "E"],
    ) -> Bool[Tensor, "E"]:
        """Which anchors within reach may become positive: those of step 3, before they are ranked."""
        place = objects.image[:, None] * len(priors) + candidates.prior
        taken = torch.zeros((len(objects.first) - 1) * len(priors), dtype=torch.int8, device=place.device)
        taken.scatter_reduce_(0, place.flatten(), positive.flatten().to(torch.int8), "amax")
        allowed = taken[objects.image[owner] * len(priors) + near] == 0
        if self.inside:
            allowed &= center_inside(priors, objects.boxes[owner], near)
        if self.levels != "any":
            level, count = priors.level_index(), len(priors.level_sizes)
            has = torch.zeros(len(objects), count, dtype=torch.int8, device=place.device)
            has.scatter_reduce_(1, level[candidates.prior], positive.to(torch.int8), "amax")
            wide = has.clone()
            if self.levels == "near":
                wide[:, 1:] |= has[:, :-1]
                wide[:, :-1] |= has[:, 1:]
            allowed &= wide[owner, level[near]] > 0
        return allowed

    def _best(
        self,
        priors: Priors,
        objects: BatchObjects,
        owner: Int64[Tensor, "E"],
        near: Int64[Tensor, "E"],
        distance: Float[Tensor, "E"],
        boxes: Float[Tensor, "B P 4"] | None,
    ) -> tuple[Candidates, Bool[Tensor, "N X"]]:
        """The additional anchors of each object, best first, and which of the entries are real.

        near: ascending for each owner. distance: by the object's reach.
        """
        own = overlaps(priors, objects.boxes[owner], near[:, None])[:, 0]
        iou = own
        if self.overlap == "predicted":
            if boxes is None:
                raise ValueError("EATSS expected a prediction for overlap 'predicted', got none; 'anchor' needs none.")
            iou = paired_iou(boxes[objects.image[owner], near], objects.boxes[owner])
        score = self._score(iou, distance).masked_fill(iou < self.min_iou, -torch.inf)
        order = score.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        owner, near, own, real = owner[order], near[order], own[order], score[order] > -torch.inf
        first = torch.searchsorted(owner, torch.arange(len(objects), device=owner.device))
        number = torch.arange(len(owner), device=owner.device) - first[owner]
        # Those that are not among the best share a column that is cut off.
        column, shape = number.clamp(max=self.extras), (len(objects), self.extras + 1)
        prior = near.new_zeros(shape).index_put_((owner, column), near)[:, :-1]
        overlap = own.new_zeros(shape).index_put_((owner, column), own)[:, :-1]
        chosen = real.new_zeros(shape).index_put_((owner, column), real)[:, :-1]
        return Candidates(prior, torch.zeros_like(overlap), overlap), chosen

    def _score(self, iou: Float[Tensor, "E"], distance: Float[Tensor, "E"]) -> Float[Tensor, "E"]:
        if self.rank == "difference":
            return iou - self.distance_weight * distance
        return iou * (1 - distance) if self.rank == "product" else iou * torch.exp(-distance)


def _within(
    priors: Priors, objects: BatchObjects, reach: Float[Tensor, "N"]
) -> tuple[Int64[Tensor, "E"], Int64[Tensor, "E"], Float[Tensor, "E"]]:
    """Objects and anchors whose centers are at most the object's reach apart, and how far; a negative reach has none.

    An object's anchors ascend. They are few, so blocks of neighboring anchors are tried before their members are.
    """
    centers, device = anchor_centers(priors), reach.device
    middle = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    members = torch.arange(_BLOCK, device=device)
    blocks = torch.arange(0, len(priors), _BLOCK, device=device)[:, None] + members
    inside = centers[blocks.clamp(max=len(priors) - 1)]  # [blocks, members, 2]
    low, high = inside.amin(dim=1), inside.amax(dim=1)
    gap = torch.zeros(len(objects), len(blocks), device=device)  # squared pixels to the hull of a block
    for axis in (0, 1):
        at = middle[:, axis, None]
        gap.add_(at.clamp(low[:, axis], high[:, axis]).sub_(at).square_())
    # A little more than the reach, as the gap is rounded otherwise than the distances are.
    limit = torch.where(reach >= 0, (reach * 1.001 + 0.01) ** 2, -1.0)
    owner, block = torch.nonzero(gap <= limit[:, None], as_tuple=True)
    index = block[:, None] * _BLOCK + members  # [pairs, members]
    prior = index.clamp(max=len(priors) - 1)
    x, y = centers.T.contiguous()
    distance = (x[prior] - middle[owner, :1]).square_()
    distance.add_((y[prior] - middle[owner, 1:]).square_()).sqrt_()
    pair, place = torch.nonzero((distance <= reach[owner, None]) & (index < len(priors)), as_tuple=True)
    return owner[pair], prior[pair, place], distance[pair, place]
