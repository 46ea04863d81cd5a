"""FCOS whose points are matched by ATSS, with a quality branch that learns IoU: the structure of HCRAL's experiments.

The paper (arXiv:2408.17182) names VarifocalNet's structures (arXiv:2008.13367), with FCOS's centerness branch kept and
given IoU as its target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from bifocals.assign import ATSS
from bifocals.balance import Fixed
from bifocals.losses import BoxLossName, ClsLossName, Initial, IoUQuality, named_box_loss, named_cls_loss
from bifocals.networks import SidesPredictor, StarPredictor, Towers
from bifocals.objective import DenseBranch
from bifocals.structures import Anchors, Assigner, Loss

from .assembly import MakePredictor, require_loss_on_boxes


@dataclass(frozen=True)
class FCOSATSSHead:
    """Details of the head; the defaults are VarifocalNet's where HCRAL names no other."""

    aux: bool = False
    """Star deformable convolution and refinement of the boxes."""
    anchors: Anchors = Anchors(8.0, 1, (1.0,))
    """What points are matched by, and the unit of their distances: one square of 8 strides."""
    matching: Assigner = ATSS()
    """Which points answer for which objects."""
    prior_probability: float = 0.01
    """What a fresh network gives every class; dr needs .5."""
    cls_loss: ClsLossName = "focal"
    """Of the class logits, divided by the positives of all processes."""
    box_loss: BoxLossName = "giou"
    """Of the boxes, each weighted by its own IoU."""
    box_weight: float = 2.0
    """Weight of the loss of the final boxes."""
    initial_weight: float = 1.5
    """Weight of the same loss of the boxes before refinement."""
    gamma: float = 1.5
    """Of the box loss hcra: ATSS's, as the paper names none for this structure."""
    quality: Literal["initial", "refined"] | None = "initial"
    """Which map the quality branch reads where boxes are refined; none leaves the branch out, as VarifocalNet does."""
    gradient: float = 0.1
    """Part of the gradient that goes through the star offsets to the initial boxes."""

    def __post_init__(self) -> None:
        require_loss_on_boxes("FCOSATSSHead", self.box_loss)


def fcos_atss_towers(head: FCOSATSSHead, towers: Towers) -> Towers:
    """The towers under the head: with refinement one convolution less, as the head has it for itself."""
    if not head.aux:
        return towers
    if towers.depth < 1:
        raise ValueError(f"FCOSATSSHead expected towers of depth 1 or more for its refinement, got {towers.depth}: the "
                         "last convolution of each is the head's own.")
    return replace(towers, depth=towers.depth - 1)


def fcos_atss_predictor(head: FCOSATSSHead = FCOSATSSHead(), norm: Literal["group", "none"] = "group") -> MakePredictor:
    """Class logits, distances and quality of each point, with refinement where the head asks for it."""

    def make(channels: int, num_classes: int) -> nn.Module:
        if head.aux:
            return StarPredictor(channels, num_classes, head.anchors, head.quality, head.prior_probability,
                                 head.gradient, groups=None if norm == "none" else 32)
        return SidesPredictor(channels, num_classes, head.anchors, head.quality is not None, head.prior_probability)

    return make


def fcos_atss_branch(head: FCOSATSSHead = FCOSATSSHead(), weight: float = 1.0) -> DenseBranch:
    """Class loss and quality of weight 1, box losses that IoU weighs; of the initial boxes too, where refined."""

    def box() -> Loss:
        return named_box_loss(head.box_loss, weight="iou", gamma=head.gamma)

    losses = {"cls": named_cls_loss(head.cls_loss), "box": box()}
    weights = {"box": head.box_weight}
    if head.aux:
        losses["initial"], weights["initial"] = Initial(box()), head.initial_weight
    if head.quality is not None:
        losses["quality"] = IoUQuality()
    return DenseBranch(head.matching, losses, Fixed(weights), weight=weight)
