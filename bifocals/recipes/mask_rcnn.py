"""Mask R-CNN: a mask of each object beside its box, arXiv:1703.06870."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bifocals.assign import MaxIoU
from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.losses import MaskLoss
from bifocals.networks import Backbone, MaskHead
from bifocals.objective import Objective
from bifocals.train import Experiment, Optim

from .balanced import balanced
from .faster_rcnn import faster_rcnn
from .two_stage import TWO_STAGE_OPTIM, MakeHead, RoIHead, RPNHead, roi_branch, rpn_branch, two_stage_network

MASK_ROI = RoIHead(matching=MaxIoU(0.5, 0.5, True, 0.5, padding=None))
"""As Faster R-CNN, but every object also has the regions that overlap it most, where that is half and more."""


@dataclass(frozen=True)
class Masks:
    """The mask branch; the defaults are mmdetection's. `Masks.torchvision()` learns as torchvision's does."""

    width: int = 256
    """Channels of its convolutions."""
    depth: int = 4
    """Convolutions before the masks are enlarged."""
    cells: int = 14
    """Cells of the side of a pooled region; a mask has twice as many."""
    aligned: bool = True
    """The masks to learn are pooled as the features are."""
    binary: bool = True
    """Their cells are object or not; else they are shares."""

    @staticmethod
    def torchvision() -> Masks:
        """As torchvision's `maskrcnn_resnet50_fpn` has it."""
        return Masks(aligned=False, binary=False)

    def head(self, roi: RoIHead) -> MakeHead:
        """Makes the head for regions that are pooled as `roi` says."""
        return lambda num_classes, channels: MaskHead(
            num_classes, channels, roi.pool(self.cells), self.width, self.depth
        )


def mask_rcnn(
    masks: Masks = Masks(),
    rpn: RPNHead = RPNHead(),
    roi: RoIHead = MASK_ROI,
    nms: float = 0.5,
    max_detections: int = 100,
    balance: Balance = Balance(),
    init: str | None = None,
    channels: int = 256,
    backbone: Backbone = Backbone(style="pytorch"),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = TWO_STAGE_OPTIM,
) -> Experiment:
    """Mask R-CNN: a mask of each object beside its box, arXiv:1703.06870.

    Faster R-CNN with a third head that draws each object in the cells of its box, a mask a class. It needs a data set
    with masks, COCO JSON with segmentations.

        bifocals train mask_rcnn --data.root /data/coco    # R50 1x, batch 16: mmdetection has 38.2, 34.7; not run
        bifocals train mask_rcnn --balance alwa1 --balance.branches rpn --data.root /data/coco    # ALWA: 37.8; not run

    Args:
        masks: The mask branch.
        rpn: The first stage: anchors, matching, losses and proposals.
        roi: The second stage: matching, sampling, pooling and losses; masks are learned from the same regions.
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses; the mask loss keeps its weight.
        init: A trained two-stage detector to start from: a run of ours, or a file of torchvision's Faster or Mask
            R-CNN.
        channels: Of the pyramid; less than 256 for small devices.
        backbone: The body and its weights.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    parent = faster_rcnn(rpn, roi, nms, max_detections, Balance(), init, channels, backbone, input, epochs, data, optim)
    loss = MaskLoss(masks.aligned, masks.binary)
    return balanced(
        replace(
            parent,
            network=two_stage_network(backbone, rpn, roi, channels=channels, mask=masks.head(roi)),
            objective=lambda: Objective({"rpn": rpn_branch(rpn), "roi": roi_branch(roi, mask=loss)}),
            masks=True,
        ),
        balance,
    )
