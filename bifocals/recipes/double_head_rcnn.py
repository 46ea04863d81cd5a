"""Double-Head R-CNN: rethinking classification and localization for object detection, arXiv:1904.06493."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.networks import Backbone, DoubleHead, HeadNorm
from bifocals.train import Experiment, Optim

from .assembly import start_from
from .faster_rcnn import faster_rcnn
from .two_stage import TWO_STAGE_COPIED, TWO_STAGE_OPTIM, RoIHead, RPNHead, two_stage_network

DOUBLE_ROI = RoIHead(box_loss="smooth_l1", cls_weight=2.0, box_weight=2.0)


@dataclass(frozen=True)
class Convolutions:
    """The half of the head that finds boxes; the defaults are the paper's."""

    depth: int = 4
    """Bottlenecks after the block that widens the features."""
    enlarge: float = 1.3
    """The box is found in the region enlarged so many times."""
    norm: HeadNorm = "batch"
    """batch: norms learn from the regions of a process; sync: from those of all processes, on CUDA devices."""


def double_head_rcnn(
    convolutions: Convolutions = Convolutions(),
    rpn: RPNHead = RPNHead(),
    roi: RoIHead = DOUBLE_ROI,
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
    """Double-Head R-CNN: rethinking classification and localization for object detection, arXiv:1904.06493.

    Faster R-CNN whose second stage tells classes with fully connected layers and finds boxes with convolutions.

        bifocals train double_head_rcnn --data.root /data/coco    # R50 1x, batch 16: mmdetection has 40.0 AP; not run
        bifocals train double_head_rcnn --balance alwa1 --balance.branches rpn --data.root /data/voc2012

    Args:
        convolutions: The half of the head that finds boxes.
        rpn: The first stage: anchors, matching, losses and proposals.
        roi: The second stage: matching, sampling, pooling, width and losses.
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses, as in `faster_rcnn`.
        init: A trained two-stage detector to start from, as in `faster_rcnn`.
        channels: Of the pyramid; less than 256 for small devices.
        backbone: The body and its weights.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    parent = faster_rcnn(rpn, roi, nms, max_detections, balance, init, channels, backbone, input, epochs, data, optim)

    def head(num_classes: int, channels: int) -> nn.Module:
        return DoubleHead(num_classes, channels, roi.pool(), roi.width, convolutions.depth, convolutions.enlarge,
                          convolutions.norm, roi.coder)

    return replace(
        parent,
        network=two_stage_network(backbone, rpn, roi, channels=channels, head=head),
        start=start_from(backbone, init, (*TWO_STAGE_COPIED, "roi.blocks")),
    )
