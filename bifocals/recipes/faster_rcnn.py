"""Faster R-CNN: towards real-time object detection with region proposal networks, arXiv:1506.01497."""

from __future__ import annotations

from dataclasses import replace

from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.networks import Backbone
from bifocals.objective import Objective
from bifocals.train import Experiment, Optim

from .assembly import start_from
from .balanced import balanced
from .two_stage import (
    TWO_STAGE_COPIED,
    TWO_STAGE_OPTIM,
    TWO_STAGE_POSTPROCESS,
    RoIHead,
    RPNHead,
    roi_branch,
    rpn_branch,
    two_stage_network,
)


def faster_rcnn(
    rpn: RPNHead = RPNHead(),
    roi: RoIHead = RoIHead(),
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
    """Faster R-CNN: towards real-time object detection with region proposal networks, arXiv:1506.01497.

    With a feature pyramid (arXiv:1612.03144), as mmdetection has it: the baseline of ALWA (arXiv:2103.09488).

        bifocals train faster_rcnn --data.root /data/coco    # R50 1x, batch 16: mmdetection has 37.4 AP; not run by us
        bifocals train faster_rcnn --balance alwa1 --balance.branches rpn --data.root /data/coco    # ALWA: 36.8 AP
        bifocals train faster_rcnn --roi.box-loss ciou --data.root /data/coco
        bifocals train faster_rcnn --optim.name adamw --optim.lr 1e-4 --optim.weight-decay .05 --data.root /data/coco
        bifocals train faster_rcnn --init fasterrcnn_resnet50_fpn_coco-258fb6c6.pth --data.root my_set

    Args:
        rpn: The first stage: anchors, matching, losses and proposals.
        roi: The second stage: matching, sampling, pooling and losses.
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed, and with
            --balance.branches rpn of the first stage alone, as in ALWA.
        init: A trained two-stage detector to start from: a run of ours, or a file of torchvision's Faster or Mask
            R-CNN; the layers that tell classes apart start anew unless the file has as many classes, or COCO's 80.
        channels: Of the pyramid; less than 256 for small devices.
        backbone: The body and its weights.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    return balanced(
        Experiment(
            network=two_stage_network(backbone, rpn, roi, channels=channels),
            start=start_from(backbone, init, TWO_STAGE_COPIED),
            start_once=init is not None,
            objective=lambda: Objective({"rpn": rpn_branch(rpn), "roi": roi_branch(roi)}),
            postprocess={"roi": replace(TWO_STAGE_POSTPROCESS, nms=nms, max_detections=max_detections)},
            output="roi",
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
