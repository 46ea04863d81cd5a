"""ResNeXt bodies: what they hold, where their stride is, what of them learns; no weight is ever allocated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bifocals.networks import Backbone, Body, build_backbone
from bifocals.recipes import atss

CLASSIFIER = 2048 * 1000 + 1000


def on_meta(config: Backbone) -> Body:
    with torch.device("meta"):
        return build_backbone(config)


@pytest.mark.parametrize(("name", "whole", "groups", "width"), [
    ("resnext50_32x4d", 25_028_904, 32, 128),
    ("resnext101_32x8d", 88_791_336, 32, 256),
    ("resnext101_64x4d", 83_455_272, 64, 256),
])
def test_parameters_are_the_published_ones(name: str, whole: int, groups: int, width: int):
    body = on_meta(Backbone(name, "pytorch"))
    assert sum(p.numel() for p in body.parameters()) == whole - CLASSIFIER
    assert body.channels == (256, 512, 1024, 2048)
    middle = body.stages[1][0].conv2
    assert (middle.groups, middle.out_channels) == (groups, width)
    assert [len(stage) for stage in body.stages[1:]] == ([3, 4, 6, 3] if "50" in name else [3, 4, 23, 3])


@pytest.mark.parametrize("style", ["caffe", "pytorch"])
def test_the_stride_stays_in_the_3x3_convolution(style):
    # MAL's X-101 has STRIDE_IN_1X1 off beside BGR pixels.
    block = on_meta(Backbone("resnext101_64x4d", style)).stages[2][0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_norms_and_first_stages_hold_still():
    body = on_meta(Backbone("resnext101_32x8d", "pytorch")).train()
    learning = {name.split(".")[1] for name, p in body.named_parameters() if p.requires_grad}
    assert learning == {"2", "3", "4"}
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)


def test_timm_has_the_same_body():
    pytest.importorskip("timm")
    body = on_meta(Backbone("timm:resnext101_64x4d", "pytorch"))
    assert sum(p.numel() for p in body.parameters()) == 83_455_272 - CLASSIFIER
    assert body.channels == (256, 512, 1024, 2048)
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.weight.requires_grad for norm in norms)


def test_features_have_the_strides_of_a_resnet():
    with torch.device("meta"):
        features = build_backbone(Backbone("resnext101_64x4d"))(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert [tuple(f.shape) for f in features] == [(1, 256, 16, 24), (1, 512, 8, 12), (1, 1024, 4, 6), (1, 2048, 2, 3)]


def test_detectors_on_it():
    # A detector differs from the one on ResNet-101 by the body alone.
    with torch.device("meta"):
        large, small = (sum(p.numel() for p in atss(backbone=Backbone(name)).network(80).parameters())
                        for name in ("resnext101_64x4d", "resnet101"))
    assert large - small == 83_455_272 - 44_549_160
