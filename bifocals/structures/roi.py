"""What the second stage of a two-stage detector returns.

Letters: R regions of interest (RoIs) of all images of a batch, C classes, K = C + 1 with the background, M RoIs with an
object, m cells of a mask's side, D boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from .deltas import DeltaCoder
from .match import Matches


@dataclass(frozen=True)
class RoIOutput:
    """The output of a RoI head for a batch, all RoIs of all images in one list.

    logits: before the softmax, the background last. deltas: the box of each class as the head encodes it against the
    RoI, by `coder`. rois: xyxy pixels of the padded canvas. image: the image of the batch that each RoI lies in.
    matches: in training, which RoI (`prior`, its row in `rois`) answers for which object; RoIs without one are
    background. None in evaluation.
    mask_logits: in training, of each pair of `matches`, from a head with masks. mask_of: in evaluation, from the boxes
    of each image (xyxy pixels of the canvas, [D, 4]) and their labels ([D]) to the probabilities of each [D, m, m].
    """

    logits: Float[Tensor, "R K"]
    deltas: Float[Tensor, "R C 4"]
    rois: Float[Tensor, "R 4"]
    image: Int64[Tensor, "R"]
    coder: DeltaCoder
    matches: Matches | None = None
    mask_logits: Float[Tensor, "M C m m"] | None = None
    mask_of: Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]] | None = None

    @property
    def num_classes(self) -> int:
        return self.deltas.shape[1]
