"""What networks return and what evaluation reads.

Letters: B images, P priors, C classes, N detections of an image, m cells of a mask's side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .priors import Priors


@dataclass(frozen=True)
class Prediction:
    """The output of a dense head for one image, without gradient: what an assigner may look at."""

    logits: Float[Tensor, "P C"]
    boxes: Float[Tensor, "P 4"]
    deltas: Float[Tensor, "P 4"]
    quality: Float[Tensor, "P"] | None = None


@dataclass(frozen=True)
class DenseOutput:
    """The output of a dense head for a batch.

    logits: class logits, before the sigmoid. deltas: the box as the head encodes it. boxes: the same decoded,
    xyxy pixels of the padded canvas, not clipped. quality: a logit of how good the box is (centerness, IoU), or None.
    unfiltered: the class logits before a filter that `logits` holds already (3DMF), or None where there is no filter.
    initial: the boxes before a refinement that `boxes` holds already (VarifocalNet), or None where there is none.
    """

    logits: Float[Tensor, "B P C"]
    deltas: Float[Tensor, "B P 4"]
    boxes: Float[Tensor, "B P 4"]
    priors: Priors
    quality: Float[Tensor, "B P"] | None = None
    unfiltered: Float[Tensor, "B P C"] | None = None
    initial: Float[Tensor, "B P 4"] | None = None

    @property
    def num_classes(self) -> int:
        return self.logits.shape[-1]

    def detach(self) -> DenseOutput:
        quality = None if self.quality is None else self.quality.detach()
        unfiltered = None if self.unfiltered is None else self.unfiltered.detach()
        initial = None if self.initial is None else self.initial.detach()
        return DenseOutput(
            self.logits.detach(), self.deltas.detach(), self.boxes.detach(), self.priors, quality, unfiltered, initial
        )

    def before_filter(self) -> DenseOutput:
        """The same output with the class logits before the filter; itself where there is no filter."""
        return self if self.unfiltered is None else replace(self, logits=self.unfiltered, unfiltered=None)

    def before_refinement(self) -> DenseOutput:
        """The same output with the boxes before their refinement. ValueError if they are not refined."""
        if self.initial is None:
            raise ValueError("DenseOutput.before_refinement was asked for, but this output has initial None: "
                             "a loss of initial boxes belongs to a predictor that refines them.")
        return replace(self, boxes=self.initial, initial=None)

    def prediction(self, image: int) -> Prediction:
        """Image number `image` of the batch, detached."""
        quality = None if self.quality is None else self.quality[image].detach()
        return Prediction(
            self.logits[image].detach(), self.boxes[image].detach(), self.deltas[image].detach(), quality
        )


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best first: xyxy pixels of the original image, scores in [0, 1].

    masks: of each object, the probability that a cell of its box belongs to it; None from a network without masks.
    """

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, "N"]
    labels: Int64[Tensor, "N"]
    masks: Float[Tensor, "N m m"] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> Detections:
        masks = None if self.masks is None else self.masks.cpu()
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu(), masks)

    def above(self, score: float) -> Detections:
        """Those with a score above `score`."""
        keep = self.scores > score
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)

    @staticmethod
    def empty(device: torch.device | str = "cpu") -> Detections:
        return Detections(
            torch.zeros(0, 4, device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )
