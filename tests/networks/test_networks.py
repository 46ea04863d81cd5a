"""Bodies, pyramid, towers, predictors, pruning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision import models

from bifocals.check import check_network
from bifocals.networks import (
    FPN,
    Backbone,
    DenseDetector,
    DenseHead,
    PointPredictor,
    build_backbone,
    load_backbone,
    prune,
)


def detector(name: str = "resnet18", share_tower: bool = True, **options) -> DenseDetector:
    body = build_backbone(Backbone(name, **options))
    neck = FPN(body.channels[1:], channels=64)
    predictors = {"one2one": PointPredictor(64, 3, "relu"), "one2many": PointPredictor(64, 3, "exp", "cls")}
    return DenseDetector(body, neck, DenseHead(predictors, neck.strides, 64, share_tower, depth=1))


def images(seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("share_tower", [True, False])
def test_contract(share_tower: bool):
    assert "every learning parameter is used" in check_network(lambda: detector(share_tower=share_tower))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "timm:mobilenetv3_small_050"])
def test_bodies_give_four_strides(name: str):
    body = build_backbone(Backbone(name, style="pytorch")).eval()
    with torch.no_grad():
        features = body(images())
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert tuple(f.shape[1] for f in features) == body.channels


def test_norms_whose_scale_learns_and_whose_statistics_stay():
    body = build_backbone(Backbone("resnet18", norm="affine")).train()
    before = {k: v.clone() for k, v in body.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in body.parameters() if p.requires_grad], lr=0.1)
    sum(f.sum() for f in body(images())).backward()
    optimizer.step()
    for key, value in body.state_dict().items():
        learns = key.startswith(("stages.2", "stages.3", "stages.4")) and key.endswith((".weight", ".bias"))
        assert torch.equal(value, before[key]) != learns, key
    with pytest.raises(ValueError, match="Backbone expected norm to be one of .*, got 'none'"):
        Backbone(norm="none")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_torchvision_weights_load_and_compute_the_same(name: str, tmp_path):
    theirs = getattr(models, name)(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "body.pth")
    config = Backbone(name, "pytorch", str(tmp_path / "body.pth"))
    body = build_backbone(config).eval()
    assert "body.pth, style pytorch" in load_backbone(body, config)
    pixels = images().float()
    with torch.no_grad():
        ours = body(pixels)
        x = body.normalize(pixels)
        if name == "mobilenet_v2":
            expected = theirs.features[:18](x)
        else:
            expected = nn.Sequential(*list(theirs.children())[:-2])(x)
    torch.testing.assert_close(ours[-1], expected)


def test_normalization_of_both_styles():
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    pytorch = build_backbone(Backbone("resnet18", "pytorch")).normalize(white)
    assert pytorch.flatten().tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
    caffe = build_backbone(Backbone("resnet18", "caffe")).normalize(red)
    assert caffe.flatten().tolist() == pytest.approx([-102.9801, -115.9465, 255 - 122.7717])


def test_caffe_style_strides_in_the_first_convolution():
    block = build_backbone(Backbone("resnet50", "caffe")).stages[2][0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = build_backbone(Backbone("resnet50", "pytorch")).stages[2][0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_frozen_stages_and_norms_stay_still():
    network = detector(frozen_stages=1).train()
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(o.logits.sum() for o in network(images()).values()).backward()
    optimizer.step()
    for key, value in network.backbone.state_dict().items():
        moved = not torch.equal(value, before[key])
        learns = key.startswith(("stages.2", "stages.3", "stages.4")) and (".conv" in key or "downsample.0" in key)
        assert moved == learns, key


def test_a_body_without_weights_learns_as_a_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = Backbone("resnet18", weights="auto")
    body = build_backbone(config)
    assert "starts random, so all of it learns" in load_backbone(body, config)
    assert all(p.requires_grad for p in body.parameters())
    assert all(m.training for m in body.train().modules() if isinstance(m, nn.BatchNorm2d))


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "half.pth")
    config = Backbone("resnet18", weights=str(tmp_path / "half.pth"))
    with pytest.raises(ValueError, match="got a file without .* of them"):
        load_backbone(build_backbone(config), config)
    with pytest.raises(ValueError, match="got 'nowhere.pth'"):
        load_backbone(build_backbone(config), Backbone("resnet18", weights="nowhere.pth"))
    with pytest.raises(ValueError, match="got 'resnet19'"):
        Backbone("resnet19")
    with pytest.raises(ValueError, match="expected a timm model, got 'no_such_net'"):
        build_backbone(Backbone("timm:no_such_net"))


def test_pyramid_sources():
    features = [torch.randn(1, c, s, s) for c, s in ((32, 16), (64, 8), (128, 4))]
    for extra, source in (("p5", 64), ("c5", 128)):
        neck = FPN((32, 64, 128), 64, extra)
        assert neck.pyramid.extra_blocks.p6.in_channels == source
        assert [x.shape[-1] for x in neck(features)] == [16, 8, 4, 2, 1]
    neck = FPN((32, 64, 128), 64)
    p6, p7 = neck(features)[3:]
    torch.testing.assert_close(p7, neck.pyramid.extra_blocks.p7(p6.relu()))
    assert bool((p6 < 0).any())  # P6 itself sees no ReLU


def test_initialization():
    head = detector().head
    assert head.scales.tolist() == [1.0] * 5
    for conv in head.cls_towers["shared"].layers[0], head.predictors["one2one"].box:
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert head.predictors["one2one"].cls.bias.tolist() == pytest.approx([-math.log(0.99 / 0.01)] * 3)


def test_distances_by_hand():
    predictor = PointPredictor(8, 2, "relu")
    network = DenseHead({"a": predictor, "b": PointPredictor(8, 2, "exp"), "c": PointPredictor(8, 2, "exp_stride")},
                        (8,), 8, depth=0)
    for p in network.predictors.values():
        nn.init.zeros_(p.box.weight)
        nn.init.constant_(p.box.bias, 2.0)
    with torch.no_grad():
        network.scales.fill_(0.5)
        outputs = network([torch.randn(1, 8, 1, 1)])
    assert outputs["a"].boxes.flatten().tolist() == pytest.approx([4 - 8, 4 - 8, 4 + 8, 4 + 8])
    assert outputs["b"].deltas.flatten().tolist() == pytest.approx([math.e] * 4)
    assert outputs["c"].deltas.flatten().tolist() == pytest.approx([math.e * 8] * 4)


@pytest.mark.parametrize("share_tower", [True, False])
def test_pruning_keeps_the_bits(share_tower: bool):
    network = detector(share_tower=share_tower).eval()
    pruned = prune(network, "one2one")
    assert network.outputs == ("one2one", "one2many")
    with torch.no_grad():
        full, part = network(images()), pruned(images())
    assert list(part) == ["one2one"]
    assert torch.equal(part["one2one"].logits, full["one2one"].logits)
    assert torch.equal(part["one2one"].boxes, full["one2one"].boxes)
    names = {n for n, _ in pruned.named_parameters()}
    assert not any("one2many" in n for n in names)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in network.parameters())
    with pytest.raises(ValueError, match=r"got \['x'\]; the network has \['one2one', 'one2many'\]"):
        prune(network, "x")
