"""FCOS: fully convolutional one-stage object detection, arXiv:1904.01355."""

from __future__ import annotations

from dataclasses import replace

from bifocals.assign import FCOS
from bifocals.balance import Fixed
from bifocals.data import Data, Input
from bifocals.losses import Centerness, Focal, IoUKind, IoULoss
from bifocals.networks import Backbone, PointPredictor, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import Loss
from bifocals.train import Experiment, Optim

from .assembly import MakePredictor, dense_network, start_from

FCOS_POSTPROCESS = Postprocess(score_threshold=0.05, per_level=1000, max_detections=100, nms=0.5)


def fcos_predictor(tricks: bool) -> MakePredictor:
    """The three convolutions of FCOS; with the tricks, distances in strides and the quality read from the box tower."""

    def make(channels: int, num_classes: int) -> PointPredictor:
        if tricks:
            return PointPredictor(channels, num_classes, "exp_stride", quality="box")
        return PointPredictor(channels, num_classes, "exp", quality="cls")

    return make


def fcos_branch(center_radius: float | None = None, box_loss: IoUKind = "log", weight: float = 1.0) -> DenseBranch:
    """Focal loss, centerness-weighted IoU loss and centerness, each of weight 1 (times `weight`)."""
    eps = 1e-6 if box_loss == "log" else 1e-7
    losses: dict[str, Loss] = {"cls": Focal(), "box": IoULoss(box_loss, "centerness", eps), "quality": Centerness()}
    return DenseBranch(FCOS(center_radius), losses, Fixed(), weight=weight)


def fcos(
    tricks: bool = False,
    nms: float = 0.5,
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = Optim(),
) -> Experiment:
    """FCOS: fully convolutional one-stage object detection, arXiv:1904.01355.

    The baseline of DATE (arXiv:2211.13859, Table 1): group-norm towers, P6 from P5, one-to-many assignment, NMS.

        bifocals train fcos --data.root /data/coco      # R50 1x, batch 16: the paper has 37.2 AP; not run by us
        bifocals train fcos --tricks --data.root DIR    # center sampling, GIoU, distances in strides

    Args:
        tricks: Center sampling of radius 1.5, GIoU instead of -log IoU, distances in strides, quality on the box tower.
        nms: IoU above which the better of two detections of a class removes the other.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    radius: float | None = 1.5 if tricks else None
    box_loss: IoUKind = "giou" if tricks else "log"
    output = "one2many"
    return Experiment(
        network=dense_network(backbone, {output: fcos_predictor(tricks)}, towers=towers),
        start=start_from(backbone),
        objective=lambda: Objective({output: fcos_branch(radius, box_loss)}),
        postprocess={output: replace(FCOS_POSTPROCESS, nms=nms)},
        output=output,
        input=input,
        data=data,
        optim=optim,
        epochs=epochs,
    )
