"""FreeAnchor: learning to match anchors for visual object detection, arXiv:1909.02466."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.networks import Backbone, Depression, Towers
from bifocals.train import Experiment, Optim

from .mal import MAL_OPTIM, MultipleAnchor, mal
from .retinanet import RetinaHead

# Of the release: 90,000 steps of 16 images of COCO's 117,266 with objects.
FREEANCHOR_EPOCHS = 12.28
FREEANCHOR_OPTIM = replace(MAL_OPTIM, milestones=(60 / 90, 80 / 90))


def freeanchor(
    bags: MultipleAnchor = MultipleAnchor(select="mean_max"),
    head: RetinaHead = RetinaHead.legacy(),
    extra: Literal["p5", "c5"] = "p5",
    nms: float = 0.5,
    max_detections: int = 100,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(norm="none"),
    input: Input = Input(),
    epochs: float = FREEANCHOR_EPOCHS,
    data: Data = Data(),
    optim: Optim = FREEANCHOR_OPTIM,
) -> Experiment:
    """FreeAnchor: learning to match anchors for visual object detection, arXiv:1909.02466.

    The same bags, scores and soft background as MAL, with Mean-max selection and without depression.

        bifocals train freeanchor --data.root /data/coco                 # R50 1x, batch 16: 38.4 to 38.7 AP in public
                                                                         # repositories; not run by us
        bifocals train freeanchor --extra c5 --data.root /data/coco      # P6 as in mmdetection's

    Args:
        bags: Details of bags, scores and background.
        head: Anchors, coding and prior; its matching and losses are not used.
        extra: Where P6 comes from: p5 or c5 (mmdetection).
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers; FreeAnchor's have no norm.
        input: Size of the images and augmentation.
        epochs: Passes over the training images; the release has 90,000 steps of 16 images of COCO.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    return mal(
        rule="release", bags=bags, depression=Depression("none"), head=head, extra=extra, nms=nms,
        max_detections=max_detections, balance=balance, backbone=backbone, towers=towers, input=input, epochs=epochs,
        data=data, optim=optim,
    )
