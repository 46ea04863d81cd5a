"""FCOS: fully convolutional one-stage object detection, arXiv:1904.01355."""

from __future__ import annotations

from dataclasses import replace

from bifocals.assign import FCOS
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import BoxLossName, Centerness, ClsLossName, IoULoss, named_box_loss, named_cls_loss
from bifocals.networks import Backbone, PointPredictor, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import Loss
from bifocals.train import Experiment, Optim

from .assembly import MakePredictor, dense_network, require_loss_on_boxes, start_from
from .balanced import balanced

FCOS_POSTPROCESS = Postprocess(score_threshold=0.05, per_level=1000, max_detections=100, nms=0.5)


def fcos_predictor(tricks: bool, prior_probability: float = 0.01) -> MakePredictor:
    """The three convolutions of FCOS; with the tricks, distances in strides and the quality read from the box tower."""

    def make(channels: int, num_classes: int) -> PointPredictor:
        if tricks:
            return PointPredictor(channels, num_classes, "exp_stride", "box", prior_probability)
        return PointPredictor(channels, num_classes, "exp", "cls", prior_probability)

    return make


def fcos_branch(
    center_radius: float | None = None,
    box_loss: BoxLossName = "log",
    weight: float = 1.0,
    cls_loss: ClsLossName = "focal",
) -> DenseBranch:
    """Class loss, centerness-weighted box loss and centerness, each of weight 1 (times `weight`)."""
    box: Loss
    if box_loss == "log":
        box = IoULoss("log", "centerness", eps=1e-6)
    else:
        box = named_box_loss(box_loss, weight="centerness", least=1e-6)
    losses: dict[str, Loss] = {"cls": named_cls_loss(cls_loss), "box": box, "quality": Centerness()}
    return DenseBranch(FCOS(center_radius), losses, Fixed(), weight=weight)


def fcos(
    tricks: bool = False,
    nms: float = 0.5,
    cls_loss: ClsLossName = "focal",
    box_loss: BoxLossName | None = None,
    balance: Balance = Balance(),
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
        cls_loss: Of the class logits; with dr the network starts at a probability of .5.
        box_loss: Of the boxes, weighted by centerness; none is giou with the tricks and log without. Losses on deltas
            (l1, smooth_l1, balanced_l1) need anchors.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    radius: float | None = 1.5 if tricks else None
    chosen: BoxLossName = box_loss or ("giou" if tricks else "log")
    require_loss_on_boxes("fcos", chosen)
    predictor = fcos_predictor(tricks, 0.5 if cls_loss == "dr" else 0.01)
    output = "one2many"
    return balanced(
        Experiment(
            network=dense_network(backbone, {output: predictor}, towers=towers),
            start=start_from(backbone),
            objective=lambda: Objective({output: fcos_branch(radius, chosen, cls_loss=cls_loss)}),
            postprocess={output: replace(FCOS_POSTPROCESS, nms=nms)},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
