"""Dynamic R-CNN: towards high quality object detection via dynamic training, arXiv:2004.06002."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bifocals.assign import DynamicIoU
from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.losses import DynamicSmoothL1
from bifocals.networks import Backbone
from bifocals.objective import Objective
from bifocals.train import Experiment, Optim

from .balanced import balanced
from .faster_rcnn import faster_rcnn
from .two_stage import TWO_STAGE_OPTIM, RoIHead, RPNHead, roi_assigner, roi_branch, rpn_branch, two_stage_network

DYNAMIC_RPN = RPNHead(nms=0.85)
"""More proposals of one object stay: as they get better, they also get more alike."""

DYNAMIC_ROI = RoIHead(box_loss="smooth_l1")


@dataclass(frozen=True)
class Dynamic:
    """How the second stage gets stricter; the defaults are the paper's."""

    every: int = 100
    """Steps from one change to the next (C of the paper)."""
    iou_rank: int = 75
    """Which proposal of an image, the best first, tells the threshold (K_I)."""
    least_iou: float = 0.4
    """The threshold is at least this."""
    beta_rank: int = 10
    """Which region for each image, that of the smallest error first, tells beta (K_beta)."""
    rule: Literal["mmdet", "original"] = "mmdet"
    """mmdet: ranks are taken in each image and the first threshold is that of `roi.matching`; original: over all images
    of a process, from `least_iou` on, and the boxes of the objects themselves do not count for beta."""


def dynamic_rcnn(
    dynamic: Dynamic = Dynamic(),
    rpn: RPNHead = DYNAMIC_RPN,
    roi: RoIHead = DYNAMIC_ROI,
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
    """Dynamic R-CNN: towards high quality object detection via dynamic training, arXiv:2004.06002.

    Faster R-CNN whose second stage asks more of proposals as they get better: a rising IoU for those that count as
    objects, and a smooth L1 with a falling beta. The log has both (`iou_threshold`, `roi/beta`).

        bifocals train dynamic_rcnn --data.root /data/coco    # R50 1x, batch 16: mmdetection has 38.9 AP; not run by us
        bifocals train dynamic_rcnn --balance alwa1 --balance.branches rpn --data.root /data/voc2012

    Args:
        dynamic: How the second stage gets stricter.
        rpn: The first stage: anchors, matching, losses and proposals.
        roi: The second stage: matching and beta as they start, sampling, pooling and weights of the losses.
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
    if roi.box_loss != "smooth_l1":
        raise ValueError(f"dynamic_rcnn expected the RoI box loss 'smooth_l1', whose beta it moves, got "
                         f"{roi.box_loss!r}; faster_rcnn takes the others.")
    parent = faster_rcnn(rpn, roi, nms, max_detections, Balance(), init, channels, backbone, input, epochs, data, optim)

    def assigner() -> DynamicIoU:
        return DynamicIoU(roi_assigner(roi), dynamic.least_iou, dynamic.iou_rank, dynamic.every, dynamic.rule)

    def objective() -> Objective:
        box = DynamicSmoothL1(roi.coder, "counted", roi.beta, dynamic.beta_rank, dynamic.every, dynamic.rule)
        return Objective({"rpn": rpn_branch(rpn), "roi": roi_branch(roi, box=box)})

    network = two_stage_network(backbone, rpn, roi, channels=channels, assigner=assigner)
    return balanced(replace(parent, network=network, objective=objective), balance)
