"""ATSS: bridging the gap between anchor-based and anchor-free detection, arXiv:1912.02424."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bifocals.assign import ATSS
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import BoxLossName, Centerness, ClsLossName, named_box_loss, named_cls_loss
from bifocals.networks import AnchorPredictor, Backbone, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import Anchors, Assigner, DeltaCoder, Normalizer
from bifocals.train import Experiment, Optim

from .assembly import MakePredictor, dense_network, start_from
from .balanced import balanced

ATSS_POSTPROCESS = Postprocess(score_threshold=0.05, per_level=1000, max_detections=100, nms=0.6)

# Of the release: 90,000 steps of 16 images of COCO's 117,266 with objects, a tenth after 60,000 and 80,000.
ATSS_EPOCHS = 12.28
ATSS_OPTIM = Optim("sgd", lr=0.01, backbone_lr_factor=1.0, clip_norm=None, milestones=(60 / 90, 80 / 90),
                   warmup_steps=500, warmup_factor=1 / 3)


@dataclass(frozen=True)
class ATSSHead:
    """Details of the head; the defaults are the release's."""

    anchors: Anchors = Anchors(8.0, 1, (1.0,))
    """Anchors of a point: one square of 8 strides."""
    coder: DeltaCoder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    """How boxes are encoded against anchors."""
    matching: ATSS = ATSS()
    """Which anchors answer for which objects."""
    prior_probability: float = 0.01
    """What a fresh network gives every class; dr needs .5."""
    cls_loss: ClsLossName = "focal"
    """Of the class logits."""
    box_loss: BoxLossName = "giou"
    """Of the boxes, weighted by centerness; l1, smooth_l1 and balanced_l1 are on deltas and not weighted."""
    box_weight: float = 2.0
    """Weight of the box loss beside class loss and centerness."""
    normalizer: Normalizer = "reduced"
    """What class loss and centerness are divided by: the positives of all processes (reduced, the release), or those
    of a process, an empty image counting one (local, mmdetection)."""


def atss_predictor(head: ATSSHead = ATSSHead()) -> MakePredictor:
    """Class logits, deltas and, from the box tower, centerness for each anchor."""

    def make(channels: int, num_classes: int) -> AnchorPredictor:
        return AnchorPredictor(channels, num_classes, head.anchors, head.coder, quality="box",
                               prior_probability=head.prior_probability)

    return make


def atss_branch(
    head: ATSSHead = ATSSHead(), weight: float = 1.0, matching: Assigner | None = None
) -> DenseBranch:
    """Class loss and centerness of weight 1 and a box loss that centerness weighs, all times `weight`.

    matching: in the place of the head's.
    """
    on_deltas = head.box_loss in ("l1", "smooth_l1", "balanced_l1")
    losses = {
        "cls": named_cls_loss(head.cls_loss, head.normalizer),
        "box": named_box_loss(head.box_loss, coder=head.coder, weight="none" if on_deltas else "centerness",
                              normalizer=head.normalizer, gamma=1.5),
        "quality": Centerness(head.normalizer),
    }
    return DenseBranch(matching or head.matching, losses, Fixed({"box": head.box_weight}), weight=weight)


def atss(
    head: ATSSHead = ATSSHead(),
    nms: float = 0.6,
    max_detections: int = 100,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = ATSS_EPOCHS,
    data: Data = Data(),
    optim: Optim = ATSS_OPTIM,
) -> Experiment:
    """ATSS: bridging the gap between anchor-based and anchor-free detection, arXiv:1912.02424.

    One square anchor a point, and for each object a threshold of its own that says which of the nearest are positive.

        bifocals train atss --data.root /data/coco    # R50 1x, batch 16: the release has 39.3 AP; not run by us

    Args:
        head: Anchors, matching and losses.
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers.
        input: Size of the images and augmentation.
        epochs: Passes over the training images; the release has 90,000 steps of 16 images of COCO.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    output = "one2many"
    return balanced(
        Experiment(
            network=dense_network(backbone, {output: atss_predictor(head)}, towers=towers),
            start=start_from(backbone),
            objective=lambda: Objective({output: atss_branch(head)}),
            postprocess={output: replace(ATSS_POSTPROCESS, nms=nms, max_detections=max_detections)},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
