"""From the output of a dense head to the objects of each image.

Letters: B images, P priors, C classes, N detections of an image, S candidates (a candidate is a prior and a class).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms

from bifocals.structures import DenseOutput, Detections, Target, clip_boxes, stable_top

from .top import top_pairs


@dataclass(frozen=True)
class Candidates:
    """What may become a detection in one image, in the order of prior and class; boxes in pixels of the original image.

    ranking: what the best are chosen by; logits, which are finer, where the scores are class probabilities alone.
    """

    boxes: Float[Tensor, "S 4"]
    scores: Float[Tensor, "S"]
    labels: Int64[Tensor, "S"]
    ranking: Float[Tensor, "S"]

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        """The candidates of several looks at one image, one look after the other."""
        return Candidates(*[torch.cat([getattr(part, name) for part in parts]) for name in _FIELDS])


_FIELDS = ("boxes", "scores", "labels", "ranking")


@dataclass(frozen=True)
class Postprocess:
    """Decides which candidates of a dense output are detections.

    1. A candidate stays if its class probability is above `score_threshold`, and of each pyramid level the best
       `per_level` stay. The quality of the box, where the head predicts one, plays no part yet.
    2. Its score is the class probability times the probability of the quality logit, where there is one.
    3. Boxes are cut to the un-padded resized image and mapped to the original image.
    4. With `nms` a number: boxes without positive width and height are dropped, and of candidates of one class whose
       IoU is above `nms` the better one stays. With `nms` None nothing is suppressed and nothing dropped: the network
       itself must give one candidate an object.
    5. The best `max_detections` are the result, best first; equal scores keep the order of prior and class.

    score_threshold: in [0, 1). per_level, max_detections: at least 1. nms: IoU in (0, 1], or None.
    """

    score_threshold: float = 0.05
    per_level: int = 1000
    max_detections: int = 100
    nms: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"Postprocess expected score_threshold in [0, 1), got {self.score_threshold}; "
                             "it is compared with a probability.")
        for name in ("per_level", "max_detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"Postprocess expected {name} of at least 1, got {getattr(self, name)}; "
                                 "it is a number of candidates.")
        if self.nms is not None and not 0 < self.nms <= 1:
            raise ValueError(f"Postprocess expected nms in (0, 1] or None, got {self.nms}; it is an IoU, "
                             "and None leaves non-maximum suppression out.")

    @torch.no_grad()
    def __call__(self, output: DenseOutput, targets: Sequence[Target]) -> list[Detections]:
        """The detections of each image, in pixels of the original image, on the device of the output.

        Of the targets only the sizes are read.
        """
        if len(targets) != len(output.logits):
            raise ValueError(f"Postprocess expected a target for each image, got {len(targets)} targets for "
                             f"{len(output.logits)} images; it reads the sizes of the image from the target.")
        # Where the score is the class probability, the best of all levels are among the best of each level.
        if self.nms is None and output.quality is None and self.per_level >= self.max_detections:
            return self._best_of_all(output, targets)
        return [self.choose(self.candidates(output, i, target)) for i, target in enumerate(targets)]

    def _best_of_all(self, output: DenseOutput, targets: Sequence[Target]) -> list[Detections]:
        """The best of all levels at once; the sigmoid only of what stays."""
        priors, labels, logits = top_pairs(output.logits, self.max_detections)
        scores = logits.float().sigmoid()
        boxes = output.boxes.gather(1, priors[..., None].expand(-1, -1, 4)).float()
        # Scores descend, so those above the threshold come first: one transfer of B numbers.
        counts = (scores > self.score_threshold).sum(dim=1).tolist()
        return [
            Detections(to_original(boxes[i, :n], target), scores[i, :n], labels[i, :n])
            for i, (n, target) in enumerate(zip(counts, targets, strict=True))
        ]

    def candidates(self, output: DenseOutput, image: int, target: Target) -> Candidates:
        """Steps 1 to 3 for one image of the batch: all that NMS, or nothing, is left to choose from."""
        prior, label, logit = self._candidates(output.logits[image], output.priors.level_sizes)
        scores = logit.sigmoid()
        ranking = logit
        if output.quality is not None:
            scores = scores * output.quality[image, prior].float().sigmoid()
            ranking = scores
        return Candidates(to_original(output.boxes[image, prior].float(), target), scores, label, ranking)

    def choose(self, found: Candidates) -> Detections:
        """Steps 4 and 5 for the candidates of one image."""
        if self.nms is None:
            keep = torch.arange(len(found.scores), device=found.scores.device)
        else:
            real = torch.nonzero((found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1))[:, 0]
            keep = real[batched_nms(found.boxes[real], found.scores[real], found.labels[real], self.nms)]
            keep = keep.sort().values  # so that equal scores end in the order of prior and class
        keep = keep[stable_top(found.ranking[keep], min(self.max_detections, len(keep)))]
        return Detections(found.boxes[keep], found.scores[keep], found.labels[keep])

    def _candidates(
        self, logits: Float[Tensor, "P C"], level_sizes: Sequence[int]
    ) -> tuple[Int64[Tensor, "S"], Int64[Tensor, "S"], Float[Tensor, "S"]]:
        """Prior, class and logit of the best of each level, by ascending prior and class."""
        num_classes = logits.shape[1]
        flat = logits.reshape(-1)
        # Comparing logits spares the sigmoid of P * C numbers; the few near the threshold are decided by the sigmoid.
        index = torch.nonzero(flat > _logit(self.score_threshold) - 1e-3)[:, 0]
        index = index[flat[index].float().sigmoid() > self.score_threshold]
        ends = torch.tensor(level_sizes).cumsum(0) * num_classes
        counts = torch.searchsorted(index, ends.to(index.device)).diff(prepend=index.new_zeros(1)).tolist()
        levels = []
        for level in index.split(counts):
            if len(level) > self.per_level:
                level = level[stable_top(flat[level], self.per_level).sort().values]
            levels.append(level)
        index = torch.cat(levels)
        return index // num_classes, index % num_classes, flat[index].float()


def to_original(boxes: Float[Tensor, "N 4"], target: Target) -> Float[Tensor, "N 4"]:
    """Cut to the un-padded resized image, then mapped to the original image."""
    return clip_boxes(boxes, target.size_hw) / boxes.new_tensor(target.scale_xyxy)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability)) if probability > 0 else -math.inf
