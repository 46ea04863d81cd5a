"""ATSS: each object sets its own IoU threshold, from the anchors nearest to its center (arXiv:1912.02424, Algorithm 1).

Letters: B images, P priors, G objects of an image, N objects of the whole batch, K candidates of an object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from bifocals.structures import (
    DenseOutput,
    Match,
    Matches,
    Prediction,
    Priors,
    Target,
    area,
    inside_canvas,
    paired_iou,
    pairwise_intersection,
)

FAR = 1e8
"""Distance of an anchor in a crowd region, in pixels: the last to be chosen."""

INSIDE = 0.01
"""Pixels that an anchor's center must at least be away from the sides of the box."""

_CPU_PAIRS, _GPU_PAIRS = 3 << 17, 1 << 26
_BLOCK = 64


@dataclass(frozen=True, eq=False)
class BatchObjects:
    """The objects of all images in one row, image after image.

    image: the image of each. first: number of the first object of each image, and N behind the last.
    """

    boxes: Float[Tensor, "N 4"]
    image: Int64[Tensor, "N"]
    first: tuple[int, ...]

    @staticmethod
    def of(targets: Sequence[Target]) -> BatchObjects:
        first = [0]
        for target in targets:
            first.append(first[-1] + len(target.labels))
        boxes = torch.cat([t.boxes for t in targets])
        image = [boxes.new_full((len(t.labels),), i, dtype=torch.int64) for i, t in enumerate(targets)]
        return BatchObjects(boxes, torch.cat(image), tuple(first))

    def __len__(self) -> int:
        return self.first[-1]

    def chunks(self, num_priors: int) -> list[slice]:
        """Ranges of objects of which a number for each prior fits: the cache of a CPU, part of the memory of a GPU."""
        step = max(1, (_CPU_PAIRS if self.boxes.device.type == "cpu" else _GPU_PAIRS) // num_priors)
        return [slice(start, start + step) for start in range(0, max(1, len(self)), step)]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What an object chooses from: the anchors nearest to it, level by level.

    distance: of the centers, in pixels; infinite where a level has no more anchors that take part, and then the entry
    stands for nothing (`real` is False).
    """

    prior: Int64[Tensor, "N K"]
    distance: Float[Tensor, "N K"]
    iou: Float[Tensor, "N K"]

    @property
    def real(self) -> Bool[Tensor, "N K"]:
        return self.distance < math.inf


@dataclass(frozen=True)
class ATSS:
    """An anchor answers for an object that it is near to and overlaps as much as few of the near ones do.

    1. Candidates of an object are, on each level, the `k` anchors whose centers are nearest to its center; on a level
       with fewer anchors, all of them.
    2. Its threshold is the mean plus the standard deviation (of a sample: divided by n - 1) of the candidates' IoU.
    3. Candidates of at least this IoU, whose centers lie more than .01 pixels inside the box, are positive.
    4. An anchor that is positive for several objects takes the one of the highest IoU, the first on a tie.

    All else is background. Which of equally far anchors is chosen, is up to `torch.topk`.

    padding, crowd_overlap: anchors in the padding of the canvas take no part, and those with more than this share of
    their area in one crowd region are ignored; both as in `MaxIoU`. As in mmdetection, an ignored anchor is still a
    candidate where a level has not `k` others. An image without objects is all background, whatever its regions.
    """

    k: int = 9
    padding: int | None = 32
    crowd_overlap: float | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"ATSS expected k of at least 1, got {self.k}; it is a number of anchors of each level.")

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        """The match of one image; the prediction is not looked at."""
        return self.batch(priors, [target]).of_image(0)

    @torch.no_grad()
    def batch(self, priors: Priors, targets: Sequence[Target], output: DenseOutput | None = None) -> Matches:
        """The matches of all images at once, with one device sync."""
        objects, handicap = BatchObjects.of(targets), self.handicap(priors, targets)
        candidates = self.candidates(priors, objects, handicap)
        positive = self.positive(priors, objects, candidates)
        out = None if handicap is None else handicap > 0
        return highest_iou_wins(objects, candidates, positive, len(priors), out)

    def handicap(self, priors: Priors, targets: Sequence[Target]) -> Float[Tensor, "B P"] | None:
        """The least distance of each anchor in pixels: infinite in the padding, `FAR` in crowd regions, else 0."""
        if self.padding is None and self.crowd_overlap is None:
            return None
        rows = []
        for target in targets:
            row = priors.points.new_zeros(len(priors))
            if self.crowd_overlap is not None and len(target.regions) and len(target.labels):
                boxes = _boxes(priors)
                shared = pairwise_intersection(boxes, target.regions) / area(boxes)[:, None].clamp(min=1e-6)
                row.masked_fill_((shared > self.crowd_overlap).any(dim=1), FAR)
            if self.padding is not None:
                height, width = (math.ceil(side / self.padding) * self.padding for side in target.size_hw)
                row.masked_fill_(~inside_canvas(priors, (height, width)), math.inf)
            rows.append(row)
        return torch.stack(rows)

    def distances(
        self, priors: Priors, boxes: Float[Tensor, "N 4"], handicap: Float[Tensor, "N P"] | None = None
    ) -> Float[Tensor, "N P"]:
        """Pixels between the centers of objects and anchors, at least `handicap`."""
        x, y = _centers(_boxes(priors)).T.contiguous()
        centers = _centers(boxes)
        # Axis by axis and in place: two numbers a pair are never kept.
        distance = (x - centers[:, :1]).square_()
        distance.add_((y - centers[:, 1:]).square_()).sqrt_()
        return distance if handicap is None else torch.maximum(distance, handicap, out=distance)

    def candidates(
        self, priors: Priors, objects: BatchObjects, handicap: Float[Tensor, "B P"] | None = None
    ) -> Candidates:
        """The nearest anchors of each level, how far they are and how much they overlap the object."""
        near, prior = [], []
        for rows in objects.chunks(len(priors)):
            boxes, image = objects.boxes[rows], objects.image[rows]
            distance = self.distances(priors, boxes, None if handicap is None else handicap[image])
            nearest = [_nearest(level, self.k) for level in distance.split(priors.level_sizes, dim=1)]
            near.append(torch.cat([values for values, _ in nearest], dim=1))
            numbered = zip(priors.level_starts, nearest, strict=True)
            prior.append(torch.cat([index + start for start, (_, index) in numbered], dim=1))
        index = torch.cat(prior)  # [N, K]
        return Candidates(index, torch.cat(near), overlaps(priors, objects.boxes, index))

    def thresholds(self, candidates: Candidates) -> Float[Tensor, "N"]:
        """Mean plus standard deviation of the candidates' IoU; NaN, which no IoU reaches, for a single candidate."""
        real = candidates.real
        number = real.sum(dim=1)
        mean = (candidates.iou * real).sum(dim=1) / number
        squares = ((candidates.iou - mean[:, None]) ** 2 * real).sum(dim=1)
        return mean + (squares / (number - 1)).sqrt()

    def positive(self, priors: Priors, objects: BatchObjects, candidates: Candidates) -> Bool[Tensor, "N K"]:
        """Candidates of enough IoU whose centers lie in the box: steps 2 and 3, before objects compete."""
        inside = center_inside(priors, objects.boxes[:, None], candidates.prior)
        return candidates.real & inside & (candidates.iou >= self.thresholds(candidates)[:, None])


def anchor_centers(priors: Priors) -> Float[Tensor, "P 2"]:
    """Centers of the anchors, pixels."""
    return _centers(_boxes(priors))


def center_inside(priors: Priors, boxes: Float[Tensor, "*#N 4"], index: Int64[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    """Whether the centers of the anchors at `index` lie more than `INSIDE` pixels inside the boxes."""
    centers = anchor_centers(priors)[index]
    return torch.minimum(centers - boxes[..., :2], boxes[..., 2:] - centers).amin(dim=-1) > INSIDE


def overlaps(priors: Priors, boxes: Float[Tensor, "N 4"], index: Int64[Tensor, "N K"]) -> Float[Tensor, "N K"]:
    """IoU of each object with the anchors at its row of `index`."""
    return paired_iou(_boxes(priors)[index], boxes[:, None].expand(-1, index.shape[1], -1))


def highest_iou_wins(
    objects: BatchObjects, candidates: Candidates, positive: Bool[Tensor, "N K"], num_priors: int, out: Tensor | None
) -> Matches:
    """Pairs of the positive candidates; an anchor of several objects of an image goes to the highest IoU, then the
    first object.

    out: [B, P] anchors that take no part; they are ignored unless they are positive all the same.
    """
    images, device = len(objects.first) - 1, objects.boxes.device
    place = objects.image[:, None] * num_priors + candidates.prior  # [N, K]
    claim = torch.where(positive, candidates.iou, -1.0).flatten()
    best = claim.new_full((images * num_priors,), -1.0).scatter_reduce_(0, place.flatten(), claim, "amax")
    wins = positive & (candidates.iou == best[place])
    nobody = len(objects)
    number = torch.arange(nobody, device=device)[:, None].where(wins, nobody).flatten()
    owner = torch.full((images * num_priors,), nobody, device=device)
    owner = owner.scatter_reduce_(0, place.flatten(), number, "amin").view(images, num_priors)
    image, prior = torch.nonzero(owner < nobody, as_tuple=True)
    first = torch.tensor(objects.first[:-1]).to(device, non_blocking=True)
    ignore = None if out is None else out & (owner == nobody)
    return Matches(image, prior, owner[image, prior] - first[image], ignore)


def _nearest(distance: Float[Tensor, "N P"], k: int) -> tuple[Float[Tensor, "N K"], Int64[Tensor, "N K"]]:
    """The k smallest of each row and where they are, by two small searches where one would be long.

    The k smallest lie in the k blocks whose smallest is smallest.
    """
    number, size = distance.shape
    whole = size // _BLOCK * _BLOCK
    if size <= 2 * k * _BLOCK:
        return distance.topk(min(k, size), dim=1, largest=False)
    blocks = distance[:, :whole].unflatten(1, (-1, _BLOCK)).amin(dim=2).topk(k, dim=1, largest=False).indices
    place = torch.arange(_BLOCK, device=distance.device)
    rest = torch.arange(whole, size, device=distance.device).expand(number, -1)
    index = torch.cat([(blocks[:, :, None] * _BLOCK + place).flatten(1), rest], dim=1)
    nearest = distance.gather(1, index).topk(k, dim=1, largest=False)
    return nearest.values, index.gather(1, nearest.indices)


def _boxes(priors: Priors) -> Tensor:
    if priors.boxes is None:
        raise ValueError("ATSS expected priors with boxes, got points alone: it belongs to an anchor head.")
    return priors.boxes


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
