"""How the two-stage recipes put a detector together: body, pyramid, RPN, RoI head, and what supervises them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from bifocals.assign import MaxIoU, Sampled
from bifocals.balance import Fixed
from bifocals.losses import BinaryCrossEntropy, BoxLossName, SoftmaxCrossEntropy, named_box_loss
from bifocals.networks import (
    FPN,
    ROI_CODER,
    RPN,
    RPN_ANCHORS,
    Backbone,
    BoxHead,
    ProposalChoice,
    RoIAlign,
    RoIAssigner,
    TwoStageDetector,
    build_backbone,
)
from bifocals.objective import DenseBranch, MaskLoss, RoIBranch
from bifocals.predict import RoIPostprocess
from bifocals.structures import Anchors, DeltaCoder, Loss, Normalizer
from bifocals.train import Optim

TWO_STAGE_OPTIM = Optim("sgd", lr=0.02, backbone_lr_factor=1.0, clip_norm=None, warmup_steps=500)
"""mmdetection's 1x schedule, 16 images a step."""

TWO_STAGE_POSTPROCESS = RoIPostprocess()

TWO_STAGE_COPIED = ("backbone", "neck", "hook", "rpn", "roi.fc1", "roi.fc2", "mask.layers")
"""What a run takes over from a trained two-stage detector; what tells classes apart starts anew."""

TORCHVISION_CODER = DeltaCoder(center_limit=1e6)
TORCHVISION_ROI_CODER = DeltaCoder(ROI_CODER.stds, center_limit=1e6)
"""Decoded sides have no lower limit; centers have one that no image reaches."""


@dataclass(frozen=True)
class RPNHead:
    """The first stage; the defaults are mmdetection's. `RPNHead.torchvision()` fits the weights of torchvision."""

    anchors: Anchors = RPN_ANCHORS
    """Anchors of a point."""
    coder: DeltaCoder = DeltaCoder()
    """How boxes are encoded against anchors."""
    matching: MaxIoU = MaxIoU(0.7, 0.3, True, 0.3)
    """Which anchors answer for which objects."""
    samples: int = 256
    """Anchors of an image that the losses see."""
    positive_share: float = 0.5
    """The largest part of them that has an object."""
    neg_pos_ub: float = -1
    """At most so many without an object for each that has one; -1 has no limit, Libra R-CNN has 5."""
    box_loss: BoxLossName = "l1"
    """On deltas (l1, smooth_l1, balanced_l1), or an IoU loss on decoded boxes."""
    beta: float = 1.0
    """Where smooth_l1 and balanced_l1 end to be quadratic."""
    cls_weight: float = 1.0
    """Weight of the class loss."""
    box_weight: float = 1.0
    """Weight of the box loss."""
    normalizer: Normalizer = "sampled"
    """What both losses are divided by: the sampled anchors, an image counting at least one with and one without an
    object (sampled), or simply these (counted)."""
    nms: float = 0.7
    """IoU above which the better of two boxes of a level removes the other; Dynamic R-CNN has .85."""
    train_per_level: int = 2000
    """Boxes of a level that go into NMS in training."""
    train_proposals: int = 1000
    """Proposals of an image in training."""
    per_level: int = 1000
    """Boxes of a level that go into NMS in evaluation."""
    proposals: int = 1000
    """Proposals of an image in evaluation."""
    min_side: float = 0.0
    """Proposals have sides above so many pixels."""

    @staticmethod
    def torchvision() -> RPNHead:
        """As torchvision's `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn` have it, so that their weights give
        the same boxes and their training the same losses."""
        return RPNHead(
            anchors=Anchors(8.0, 1, rule="torchvision"), coder=TORCHVISION_CODER,
            matching=MaxIoU(0.7, 0.3, True, 0.0, padding=None, keep_best=True), box_loss="smooth_l1", beta=1 / 9,
            normalizer="counted", train_proposals=2000, min_side=1e-3,
        )


@dataclass(frozen=True)
class RoIHead:
    """The second stage; the defaults are mmdetection's. `RoIHead.torchvision()` fits the weights of torchvision."""

    matching: MaxIoU = MaxIoU(0.5, 0.5, False, 0.5, padding=None)
    """Which regions answer for which objects."""
    samples: int = 512
    """Regions of an image that the head sees in training."""
    positive_share: float = 0.25
    """The largest part of them that has an object."""
    objects: Literal["first", "last"] = "first"
    """Where the boxes of the objects join the proposals; it only decides which random numbers draw which regions."""
    sampling_ratio: int = 0
    """Points of the side of a pooled cell; 0 takes as many as the region has pixels there."""
    aligned: bool = True
    """Pooling knows that the center of a pixel lies half a pixel inside."""
    width: int = 1024
    """Of the two layers of the head."""
    coder: DeltaCoder = ROI_CODER
    """How boxes are encoded against regions."""
    box_loss: BoxLossName = "l1"
    """On deltas (l1, smooth_l1, balanced_l1), or an IoU loss on decoded boxes. ALWA's tables change this one."""
    beta: float = 1.0
    """Where smooth_l1 and balanced_l1 end to be quadratic."""
    cls_weight: float = 1.0
    """Weight of the class loss."""
    box_weight: float = 1.0
    """Weight of the box loss."""

    def __post_init__(self) -> None:
        if self.box_loss == "hcra":
            raise ValueError("RoIHead expected a box loss that does not read class scores, got 'hcra', which takes "
                             "them for sigmoids; the second stage has a softmax.")

    @staticmethod
    def torchvision() -> RoIHead:
        """As torchvision's `fasterrcnn_resnet50_fpn` and `maskrcnn_resnet50_fpn` have it."""
        return RoIHead(objects="last", sampling_ratio=2, aligned=False, coder=TORCHVISION_ROI_CODER,
                       box_loss="smooth_l1", beta=1 / 9)

    def pool(self, size: int = 7) -> RoIAlign:
        """Pooling to `size` cells a side as this head is configured."""
        return RoIAlign(size=size, sampling_ratio=self.sampling_ratio, aligned=self.aligned)


MakeHead = Callable[[int, int], nn.Module]
"""Number of classes and channels -> a head of regions: `BoxHead` and `MaskHead` say what it takes and gives."""


def roi_assigner(roi: RoIHead) -> Sampled:
    """Regions matched by IoU and sampled at random."""
    return Sampled(roi.matching, roi.samples, roi.positive_share)


def two_stage_network(
    backbone: Backbone,
    rpn: RPNHead = RPNHead(),
    roi: RoIHead = RoIHead(),
    *,
    channels: int = 256,
    head: MakeHead | None = None,
    mask: MakeHead | None = None,
    hook: Callable[[int], nn.Module] | None = None,
    assigner: Callable[[], RoIAssigner] | None = None,
) -> Callable[[int], TwoStageDetector]:
    """Number of classes -> a detector with P2..P6, an RPN and a head of regions.

    channels: of the pyramid. head: makes another head than two fully connected layers (Double-Head). mask: makes a mask
    head. hook: makes a part between pyramid and heads, of so many channels (Libra). assigner: makes another matching
    and sampling of regions (Dynamic, Libra).
    """

    def build(num_classes: int) -> TwoStageDetector:
        body = build_backbone(backbone)
        neck = FPN(body.channels, channels, "pool")
        proposing = RPN(neck.strides, channels, rpn.anchors, rpn.coder)
        if head is None:
            second: nn.Module = BoxHead(num_classes, channels, roi.pool(), roi.width, roi.coder)
        else:
            second = head(num_classes, channels)
        return TwoStageDetector(
            body, neck, proposing, second,
            choice=ProposalChoice(rpn.per_level, rpn.nms, rpn.proposals, rpn.min_side),
            training_choice=ProposalChoice(rpn.train_per_level, rpn.nms, rpn.train_proposals, rpn.min_side),
            assigner=roi_assigner(roi) if assigner is None else assigner(),
            objects=roi.objects,
            hook=None if hook is None else hook(channels),
            mask=None if mask is None else mask(num_classes, channels),
        )

    return build


def rpn_branch(rpn: RPNHead = RPNHead()) -> DenseBranch:
    """Binary cross-entropy and a box loss over sampled anchors."""
    losses: dict[str, Loss] = {
        "cls": BinaryCrossEntropy(rpn.normalizer),
        "box": named_box_loss(rpn.box_loss, coder=rpn.coder, normalizer=rpn.normalizer, beta=rpn.beta),
    }
    sampled = Sampled(rpn.matching, rpn.samples, rpn.positive_share, rpn.neg_pos_ub)
    return DenseBranch(sampled, losses, Fixed({"cls": rpn.cls_weight, "box": rpn.box_weight}), class_agnostic=True)


def roi_branch(roi: RoIHead = RoIHead(), *, box: Loss | None = None, mask: MaskLoss | None = None) -> RoIBranch:
    """Softmax cross-entropy and a box loss, divided by the sampled regions. box: in place of the loss that is named."""
    losses: dict[str, Loss] = {
        "cls": SoftmaxCrossEntropy("counted"),
        "box": box or named_box_loss(roi.box_loss, coder=roi.coder, normalizer="counted", beta=roi.beta),
    }
    return RoIBranch(losses, Fixed({"cls": roi.cls_weight, "box": roi.box_weight}), mask=mask)
