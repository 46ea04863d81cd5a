"""How the dense recipes put a detector together: body, pyramid, towers, predictors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import nn

from bifocals.networks import (
    FPN,
    Backbone,
    Body,
    DenseDetector,
    DenseHead,
    PointPredictor,
    Towers,
    build_backbone,
    load_backbone,
)

MakePredictor = Callable[[int, int], PointPredictor]
"""Channels and number of classes -> predictor."""


def dense_network(
    backbone: Backbone,
    predictors: Mapping[str, MakePredictor],
    *,
    towers: Towers = Towers(),
    extra: Literal["p5", "c5"] = "p5",
) -> Callable[[int], DenseDetector]:
    """Number of classes -> a detector with P3..P7, towers and the named predictors."""

    def build(num_classes: int) -> DenseDetector:
        body = build_backbone(backbone)
        neck = FPN(body.channels[1:], towers.channels, extra)
        made = {name: make(towers.channels, num_classes) for name, make in predictors.items()}
        return DenseDetector(body, neck, DenseHead(made, neck.strides, towers.channels, towers.shared, towers.depth))

    return build


def start_from(backbone: Backbone) -> Callable[[nn.Module], str]:
    """What a run does to its network before the first step: gives the body its weights, and says so in a sentence."""

    def start(network: nn.Module) -> str:
        assert isinstance(network, DenseDetector)
        assert isinstance(network.backbone, Body)
        return load_backbone(network.backbone, backbone)

    return start
