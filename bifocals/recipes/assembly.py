"""How the dense recipes put a detector together: body, pyramid, towers, predictors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from torch import nn

from bifocals.losses import BoxLossName, DeltaLossName
from bifocals.networks import (
    FPN,
    Backbone,
    Body,
    DenseDetector,
    DenseHead,
    Towers,
    build_backbone,
    load_backbone,
)
from bifocals.train import copy_weights, read_source

from .torchvision_weights import copy_torchvision, is_torchvision

MakePredictor = Callable[[int, int], nn.Module]
"""Channels and number of classes -> predictor."""

COPIED = ("backbone", "neck", "head.cls_towers", "head.box_towers")
"""What a run takes over from a trained detector (DATE's Figure 3 and Table 11)."""


def dense_network(
    backbone: Backbone,
    predictors: Mapping[str, MakePredictor],
    *,
    towers: Towers = Towers(),
    extra: Literal["p5", "c5"] = "p5",
    relu_before_p7: bool = True,
    tower_bias: bool = False,
    scales: bool = True,
    hook: Callable[[], nn.Module] | None = None,
) -> Callable[[int], DenseDetector]:
    """Number of classes -> a detector with P3..P7, towers and the named predictors.

    extra: where P6 comes from. relu_before_p7: P7 sees P6 rectified, as in RetinaNet's paper.
    tower_bias: the convolutions of the towers have a bias beside their norms (DeFCN). scales: each level has a learned
    scale for what its boxes are decoded from. hook: makes a part between pyramid and towers (MAL's depression).
    """

    def build(num_classes: int) -> DenseDetector:
        body = build_backbone(backbone)
        neck = FPN(body.channels[1:], towers.channels, extra, relu_before_p7)
        made = {name: make(towers.channels, num_classes) for name, make in predictors.items()}
        head = DenseHead(made, neck.strides, towers.channels, towers.shared, towers.depth, tower_bias,
                         groups=None if towers.norm == "none" else 32, scales=scales, deformable=towers.deformable)
        return DenseDetector(body, neck, head, None if hook is None else hook())

    return build


def require_loss_on_boxes(who: str, name: BoxLossName) -> None:
    """ValueError for a loss on deltas, which a head that predicts distances to the sides does not have."""
    if name in get_args(DeltaLossName):
        raise ValueError(f"{who} expected a box loss on decoded boxes, got {name!r}, which compares deltas of anchors; "
                         "giou, hcra and the other IoU losses serve every head.")


def start_from(
    backbone: Backbone, init: str | None = None, copied: Sequence[str] = COPIED
) -> Callable[[nn.Module], str]:
    """What a run does to its network before the first step: gives it weights, and says so in a sentence.

    init: None gives the body the weights that `backbone` names. Else a trained detector (a work directory, a checkpoint
    or a file of weights), of which the parts `copied` are copied; predictors and scales start anew, and weights of the
    backbone's own are not read. Of a file of a torchvision detector also the predictors are, where their classes fit.
    Set `start_once` of the experiment then, so that a resumed run does not need it.
    """

    def start(network: nn.Module) -> str:
        body = network.backbone
        assert isinstance(body, Body)
        if init is None:
            return load_backbone(body, backbone)
        source = read_source(init)
        if is_torchvision(source.tensors):
            return copy_torchvision(network, source, backbone)
        theirs = source.arguments.get("backbone")
        style = theirs.get("style", backbone.style) if isinstance(theirs, Mapping) else backbone.style
        if style != backbone.style:
            raise ValueError(f"--init expected a run with backbone style {backbone.style!r}, got {style!r} in {init}, "
                             f"whose body sees other pixels; --backbone.style {style} goes on with it.")
        return copy_weights(network, source, copied, whole=("backbone",))

    return start
