"""Libra R-CNN: towards balanced learning for object detection, arXiv:1904.02701."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bifocals.assign import BinRule, Sampled
from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.networks import Backbone, BalancedPyramid, Refine
from bifocals.train import Experiment, Optim

from .faster_rcnn import faster_rcnn
from .two_stage import TWO_STAGE_OPTIM, RoIHead, RPNHead, two_stage_network

LIBRA_RPN = RPNHead(neg_pos_ub=5)
LIBRA_ROI = RoIHead(box_loss="balanced_l1")


@dataclass(frozen=True)
class Libra:
    """The balance of features and of samples; the defaults are the release's."""

    start: Refine = "xavier"
    """How the refinement of the pyramid starts: xavier, or zero, with which it starts as the identity."""
    bin_rule: BinRule = "faithful"
    """Where the parts lie that give as many background regions each: faithful cuts IoU 0 to 1, so that a third of them
    has nobody; paper cuts 0 to the threshold of background."""
    bins: int = 3
    """Parts."""


def libra_rcnn(
    libra: Libra = Libra(),
    rpn: RPNHead = LIBRA_RPN,
    roi: RoIHead = LIBRA_ROI,
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
    """Libra R-CNN: towards balanced learning for object detection, arXiv:1904.02701.

    Faster R-CNN with three things balanced: the levels of the pyramid, the regions that are sampled, by object and by
    IoU, and the box loss, whose good pairs get more of the gradient.

        bifocals train libra_rcnn --data.root /data/coco    # R50 1x, batch 16: mmdetection has 38.3 AP; not run by us
        bifocals train libra_rcnn --balance alwa1 --balance.branches rpn --data.root /data/voc2012

    Args:
        libra: The balance of features and of samples.
        rpn: The first stage: anchors, matching, losses and proposals.
        roi: The second stage: matching, sampling, pooling and losses.
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

    def assigner() -> Sampled:
        return Sampled(roi.matching, roi.samples, roi.positive_share, positives="instance_balanced",
                       negatives="iou_balanced", bin_rule=libra.bin_rule, bins=libra.bins, reach=roi.matching.negative)

    def hook(channels: int) -> BalancedPyramid:
        return BalancedPyramid(channels, start=libra.start)

    return replace(parent, network=two_stage_network(backbone, rpn, roi, channels=channels, hook=hook,
                                                     assigner=assigner))
