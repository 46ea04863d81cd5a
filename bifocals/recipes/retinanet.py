"""RetinaNet: focal loss for dense object detection, arXiv:1708.02002."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bifocals.assign import MaxIoU
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import BoxLossName, ClsLossName, named_box_loss, named_cls_loss
from bifocals.networks import AnchorPredictor, Backbone, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import Anchors, DeltaCoder, Normalizer
from bifocals.train import Experiment, Optim

from .assembly import MakePredictor, dense_network, start_from
from .balanced import balanced

RETINA_POSTPROCESS = Postprocess(score_threshold=0.05, per_level=1000, max_detections=100, nms=0.5)


@dataclass(frozen=True)
class RetinaHead:
    """Where the RetinaNets of the papers differ; the defaults are DATE's baseline (mmdetection's losses)."""

    anchors: Anchors = Anchors()
    """Anchors of a point; the rounded ones of the first releases are offset .5, rounded."""
    coder: DeltaCoder = DeltaCoder()
    """How boxes are encoded against anchors; stds of .1 .1 .2 .2 are Faster R-CNN's."""
    matching: MaxIoU = MaxIoU()
    """Which anchors answer for which objects."""
    prior_probability: float = 0.01
    """What a fresh network gives every class; the first releases of MAL have .02, and dr needs .5."""
    cls_loss: ClsLossName = "focal"
    """Of the class logits."""
    box_loss: BoxLossName = "smooth_l1"
    """On deltas (l1, smooth_l1, balanced_l1), or an IoU loss on decoded boxes."""
    beta: float = 0.0
    """Where smooth_l1 and balanced_l1 end to be quadratic; 0 is L1."""
    box_weight: float = 1.0
    """Weight of the box loss beside the class loss."""
    normalizer: Normalizer = "local"
    """What the losses are divided by: positives of a process, an empty image counting one (local), the positives of
    all processes (reduced), positives and images (with_images)."""
    box_normalizer: Normalizer | None = None
    """What the box loss is divided by; none divides it as the other."""
    scales: bool = True
    """Each level has a learned scale for its deltas, as FCOS has for its distances; the first releases have none."""
    apart: bool = False
    """The losses of each image are divided by its own positives, and their mean is taken (torchvision)."""

    @staticmethod
    def legacy() -> RetinaHead:
        """The head of the first releases as MAL (arXiv:1912.02252) configures it, for towers without norm.

        A class loss over positives and images, and smooth L1 averaged over the coordinates of the positives. The
        release divides the latter by the positives of its process; here they are averaged over processes, and none at
        all counts as one.
        """
        return RetinaHead(
            anchors=Anchors(offset=0.5, rounded=True), coder=DeltaCoder((0.1, 0.1, 0.2, 0.2)),
            matching=MaxIoU(padding=None), prior_probability=0.02, beta=0.11, box_weight=0.25,
            normalizer="with_images", box_normalizer="reduced", scales=False,
        )

    @staticmethod
    def torchvision() -> RetinaHead:
        """The head of torchvision's `retinanet_resnet50_fpn`, for towers without norm and P6 from P5: its weights give
        the same boxes, its training the same losses. Its class 0 is one that no object has."""
        return RetinaHead(
            anchors=Anchors(rule="torchvision"), coder=DeltaCoder(center_limit=1e6),
            matching=MaxIoU(padding=None, keep_best=True), scales=False, apart=True,
        )


def retina_predictor(head: RetinaHead = RetinaHead()) -> MakePredictor:
    """Class logits and deltas for each anchor."""

    def make(channels: int, num_classes: int) -> AnchorPredictor:
        return AnchorPredictor(channels, num_classes, head.anchors, head.coder,
                               prior_probability=head.prior_probability)

    return make


def retina_branch(head: RetinaHead = RetinaHead(), weight: float = 1.0) -> DenseBranch:
    """Class loss of weight 1 and a box loss, both times `weight`."""
    normalizer = head.normalizer if head.box_normalizer is None else head.box_normalizer
    losses = {
        "cls": named_cls_loss(head.cls_loss, head.normalizer),
        "box": named_box_loss(head.box_loss, coder=head.coder, normalizer=normalizer, beta=head.beta),
    }
    return DenseBranch(head.matching, losses, Fixed({"box": head.box_weight}), weight=weight, apart=head.apart)


def retinanet(
    head: RetinaHead = RetinaHead(),
    extra: Literal["p5", "c5"] = "p5",
    relu_before_p7: bool = True,
    nms: float = 0.5,
    max_detections: int = 100,
    balance: Balance = Balance(),
    init: str | None = None,
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = Optim(),
) -> Experiment:
    """RetinaNet: focal loss for dense object detection, arXiv:1708.02002.

    By default the baseline of DATE (arXiv:2211.13859, Table 1): group-norm towers, P6 from P5, 9 anchors a point.
    The baseline of MAL is `retinanet(head=RetinaHead.legacy(), towers=Towers(norm="none"))`; on the command line,
    `mal --loss retinanet --depression.schedule none`.

        bifocals train retinanet --data.root /data/coco    # R50 1x, batch 16: the paper has 36.9 AP; not run by us

    Args:
        head: Anchors, matching and losses.
        extra: Where P6 comes from: p5 (DATE, MAL) or c5 (the paper).
        relu_before_p7: P7 sees P6 rectified (the paper, DATE, MAL) or as it is (mmdetection).
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        init: A trained detector to start from: a run of ours, of which body, pyramid and towers are taken, or a file of
            torchvision's RetinaNet (towers without norm; of the v2 with norm and P6 from c5).
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    output = "one2many"
    return balanced(
        Experiment(
            network=dense_network(backbone, {output: retina_predictor(head)}, towers=towers, extra=extra,
                                  relu_before_p7=relu_before_p7, scales=head.scales),
            start=start_from(backbone, init),
            start_once=init is not None,
            objective=lambda: Objective({output: retina_branch(head)}),
            postprocess={output: replace(RETINA_POSTPROCESS, nms=nms, max_detections=max_detections)},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
