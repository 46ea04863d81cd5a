"""What a loss sees: outputs, targets and their match, gathered once.

Letters: B images, P priors, C classes, G objects of an image, M pairs of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from .boxes import paired_iou, pairwise_iou
from .match import Matches
from .outputs import DenseOutput
from .ranks import sum_over_ranks, world_size
from .target import Target, pad_targets

Normalizer = Literal["reduced", "local", "with_images", "sampled", "counted"]
"""What a sum over pairs is divided by, see `Matched.normalizer`."""


@dataclass(frozen=True)
class Matched:
    """The matched view of a batch. It computes lazily, keeps what it computed, and decides nothing.

    What it keeps is kept as first computed: a loss that reads `iou` under `no_grad` would take the gradient from all
    that read it later. Read outside, then detach.
    """

    output: DenseOutput
    targets: Sequence[Target]
    matches: Matches
    joined: int = 1
    """Images that each of the targets stands for: the view of a RoI head joins those of a batch into one."""

    @property
    def num_images(self) -> int:
        """Images of the batch."""
        return len(self.targets) * self.joined

    @cached_property
    def _object(self) -> Int64[Tensor, "M"]:
        """Index of each pair's object in the concatenated objects of the batch."""
        counts = [len(t.labels) for t in self.targets]
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))])
        return first.to(self.matches.gt.device)[self.matches.image] + self.matches.gt

    @cached_property
    def logits(self) -> Float[Tensor, "M C"]:
        """Class logits of the matched priors."""
        return self.output.logits[self.matches.image, self.matches.prior]

    @cached_property
    def boxes(self) -> Float[Tensor, "M 4"]:
        """Predicted boxes of the matched priors, xyxy pixels."""
        return self.output.boxes[self.matches.image, self.matches.prior]

    @cached_property
    def deltas(self) -> Float[Tensor, "M 4"]:
        """Encoded boxes of the matched priors."""
        return self.output.deltas[self.matches.image, self.matches.prior]

    @cached_property
    def quality(self) -> Float[Tensor, "M"]:
        """Quality logits of the matched priors. ValueError if the head predicts none."""
        if self.output.quality is None:
            raise ValueError("Matched.quality was asked for, but this output has quality None: "
                             "give the predictor a quality map or leave the quality loss out.")
        return self.output.quality[self.matches.image, self.matches.prior]

    @cached_property
    def points(self) -> Float[Tensor, "M 2"]:
        return self.output.priors.points[self.matches.prior]

    @cached_property
    def anchors(self) -> Float[Tensor, "M 4"]:
        """Anchors of the matched priors. ValueError if the priors are points."""
        if self.output.priors.boxes is None:
            raise ValueError("Matched.anchors was asked for, but the priors of this output are points: "
                             "a loss on deltas belongs to an anchor head.")
        return self.output.priors.boxes[self.matches.prior]

    @cached_property
    def target_boxes(self) -> Float[Tensor, "M 4"]:
        return torch.cat([t.boxes for t in self.targets])[self._object]

    @cached_property
    def target_labels(self) -> Int64[Tensor, "M"]:
        return torch.cat([t.labels for t in self.targets])[self._object]

    @cached_property
    def image_size_xyxy(self) -> Float[Tensor, "M 4"]:
        """(W, H, W, H) of the un-padded image of each pair, to normalize boxes with."""
        sizes = torch.tensor([[w, h, w, h] for h, w in (t.size_hw for t in self.targets)], dtype=torch.float32)
        return sizes.to(self.boxes.device)[self.matches.image]

    @cached_property
    def probability(self) -> Float[Tensor, "M"]:
        """Predicted probability of the pair's own class."""
        return self.logits.gather(1, self.target_labels[:, None])[:, 0].sigmoid()

    @cached_property
    def iou(self) -> Float[Tensor, "M"]:
        """IoU of the predicted box and its target; carries gradient."""
        return paired_iou(self.boxes, self.target_boxes)

    @cached_property
    def best_iou(self) -> Float[Tensor, "B P"]:
        """Best IoU of every predicted box with any object of its image, without gradient; 0 in an empty image."""
        with torch.no_grad():
            boxes, _, real = pad_targets(self.targets)
            if boxes.shape[1] == 0:
                return self.output.boxes.new_zeros(self.output.boxes.shape[:2])
            iou = pairwise_iou(boxes, self.output.boxes.detach())  # [B, G, P]: the long side inside
            return (iou * real[:, :, None]).amax(dim=1)

    @cached_property
    def class_targets(self) -> Float[Tensor, "B P C"]:
        """1 where a prior is matched to an object of the class, else 0."""
        targets = torch.zeros_like(self.output.logits)
        targets[self.matches.image, self.matches.prior, self.target_labels] = 1
        return targets

    @cached_property
    def first_of_class(self) -> Bool[Tensor, "M"]:
        """True for the first pair of each (image, prior, class): a prior may answer for two objects of one class."""
        matches = self.matches
        prior = matches.image * len(self.output.priors) + matches.prior
        key, order = (prior * self.output.num_classes + self.target_labels).sort(stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        return torch.zeros_like(first).scatter(0, order, first)

    @cached_property
    def counted(self) -> Bool[Tensor, "B P"] | None:
        """Priors that enter the classification loss; None means all of them."""
        return None if self.matches.ignore is None else ~self.matches.ignore

    @cached_property
    def num_positive(self) -> Float[Tensor, ""]:
        """Pairs of a rank, averaged over ranks, as a divisor that is never zero.

        The total over ranks is clamped below at 1 *before* dividing by the number of ranks, so that the gradient
        averaged over ranks equals the one of a single process with the whole batch, also when ranks are empty.
        """
        total = sum_over_ranks(self.output.logits.new_tensor(float(len(self.matches))))
        return total.clamp(min=1) / world_size()

    def normalizer(self, kind: Normalizer) -> Float[Tensor, ""]:
        """The divisor of a sum over the pairs.

        "reduced": `num_positive`. "local": the pairs of this process alone, an image without any counting as one
        (mmdetection's anchor heads, DATE-R). "with_images": the pairs of this process plus its images (the first
        RetinaNet releases). "counted": the priors of this process that enter the classification loss, at least 1
        (torchvision's two-stage detectors, mmdetection's RoI heads). "sampled": the same, but each image counts at
        least one prior with an object and one without (mmdetection's RPN).
        """
        if kind == "reduced":
            return self.num_positive
        if kind in ("counted", "sampled"):
            return self._num_counted(at_least_each=kind == "sampled")
        # Not `bincount`, which waits for the device to know its length.
        ones = torch.ones_like(self.matches.image)
        of_image = ones.new_zeros(len(self.targets)).index_add_(0, self.matches.image, ones)
        if kind == "local":
            return of_image.clamp(min=1).sum().to(self.output.logits.dtype)
        if kind == "with_images":
            return (of_image.sum() + len(self.targets)).to(self.output.logits.dtype)
        raise ValueError(f"Matched.normalizer knows the kinds {get_args(Normalizer)}, got {kind!r}.")

    def _num_counted(self, at_least_each: bool) -> Float[Tensor, ""]:
        """Priors that enter the classification loss."""
        num_images, num_priors = self.output.logits.shape[:2]
        if self.counted is None:
            of_image = torch.full((num_images,), num_priors, device=self.output.logits.device)
        else:
            of_image = self.counted.sum(dim=1)
        if not at_least_each:
            return of_image.sum().clamp(min=1).to(self.output.logits.dtype)
        matched = torch.zeros(num_images, num_priors, dtype=torch.bool, device=of_image.device)
        matched[self.matches.image, self.matches.prior] = True
        if self.counted is not None:
            matched &= self.counted
        positive = matched.sum(dim=1)
        return (positive.clamp(min=1) + (of_image - positive).clamp(min=1)).sum().to(self.output.logits.dtype)
