"""Deformable convolutions by hand, and in the places of plain ones: bodies, their weights, towers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from bifocals.check import check_network
from bifocals.evaluate.cost import cost
from bifocals.networks import (
    FPN,
    Backbone,
    DeformConv2d,
    DenseDetector,
    DenseHead,
    ModulatedConv2d,
    PointPredictor,
    Tower,
    Towers,
    build_backbone,
    is_deformable,
    load_backbone,
    make_deformable,
)
from bifocals.recipes import atss

from .test_networks import images


def test_taps_by_hand():
    # The middle tap alone has weight, and its offset says one pixel down and two to the right; half of it is let in.
    conv = DeformConv2d(1, 1, 3, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, 1, 1] = 1.0
    maps = torch.arange(20.0).view(1, 1, 4, 5)
    offsets, mask = torch.zeros(1, 18, 4, 5), torch.full((1, 9, 4, 5), 0.5)
    offsets[:, 8], offsets[:, 9] = 1.0, 2.0  # tap 4: dy, dx
    moved = conv(maps, offsets, mask)[0, 0]
    assert moved[0].tolist() == [3.5, 4.0, 4.5, 0.0, 0.0]  # half of 7, 8, 9; beyond the border nothing
    assert not moved[3].any()
    plain = nn.functional.conv2d(maps, conv.weight, padding=1)
    torch.testing.assert_close(conv(maps, torch.zeros_like(offsets)), plain)


def test_a_fresh_one_gives_half_of_what_it_replaces():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=4)
    moving, maps = ModulatedConv2d(plain), torch.randn(2, 8, 16, 18)
    nn.init.zeros_(plain.bias)
    torch.testing.assert_close(moving(maps), plain(maps) / 2)
    assert moving.conv.weight is plain.weight and moving.offset.out_channels == 27
    with torch.no_grad():
        moving.offset.bias[18:] = 100.0  # an open mask
    torch.testing.assert_close(moving(maps), plain(maps))
    moving(maps).square().sum().backward()
    assert bool(moving.offset.weight.grad.any()) and bool(moving.conv.weight.grad.any())


def test_under_autocast():
    torch.manual_seed(0)
    moving, maps = ModulatedConv2d(nn.Conv2d(8, 4, 3, padding=1)), torch.randn(1, 8, 6, 6)
    nn.init.normal_(moving.offset.weight, std=0.1)
    expected = moving(maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = moving(maps.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().square().sum().backward()
    assert bool(moving.offset.weight.grad.isfinite().all()) and bool(moving.conv.weight.grad.any())


@pytest.mark.parametrize(("name", "number"), [("resnet18", 4 * 3), ("resnet50", 4 + 6 + 3), ("mobilenet_v2", 14)])
def test_bodies_move_their_taps_from_c3_on(name: str, number: int):
    body = build_backbone(Backbone(name, "pytorch", deformable=True, frozen_stages=1)).eval()
    found = [n for n, m in body.named_modules() if isinstance(m, ModulatedConv2d)]
    assert len(found) == number
    assert all(n.startswith(("stages.2", "stages.3", "stages.4")) for n in found)
    with torch.no_grad():
        features = body(images())
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    offsets = [p for n, p in body.named_parameters() if ".offset." in n]
    assert len(offsets) == 2 * number and all(p.requires_grad for p in offsets)


@pytest.mark.parametrize("name", ["resnet50", "timm:resnet18"])
def test_plain_weights_fit_a_deformable_body(name: str, tmp_path):
    if name.startswith("timm:"):
        theirs = pytest.importorskip("timm").create_model("resnet18", features_only=True, pretrained=False)
    else:
        theirs = models.resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "body.pth")
    config = Backbone(name, "pytorch", str(tmp_path / "body.pth"), deformable=True)
    body = build_backbone(config)
    assert "body.pth" in load_backbone(body, config)
    mine = dict(body.named_parameters())
    key = "stages.0.layer3.0.conv2" if name.startswith("timm:") else "stages.3.0.conv2"
    assert torch.equal(mine[f"{key}.conv.weight"], theirs.layer3[0].conv2.weight)
    assert not mine[f"{key}.offset.weight"].any()
    # Stages without deformable convolution compute the same as ever.
    plain = build_backbone(Backbone(name, "pytorch", str(tmp_path / "body.pth")))
    load_backbone(plain, Backbone(name, "pytorch", str(tmp_path / "body.pth")))
    with torch.no_grad():
        torch.testing.assert_close(body.eval()(images())[0], plain.eval()(images())[0])
    # A weight that is missing is still named.
    torch.save({k: v for k, v in theirs.state_dict().items() if k != "layer3.0.conv2.weight"}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"got a file without 1 of them, \S*layer3.0.conv2.conv.weight|stages.3"):
        load_backbone(body, Backbone(name, "pytorch", str(tmp_path / "half.pth"), deformable=True))


def test_a_body_without_3x3_convolutions_is_named():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="3x3 convolutions in C3 to C5 to make deformable, got 'timm:convnext_atto'"):
        build_backbone(Backbone("timm:convnext_atto", "pytorch", deformable=True))


def test_res2net_101_is_the_paper_s():
    pytest.importorskip("timm")
    with torch.device("meta"):
        body = build_backbone(Backbone("timm:res2net101d", "pytorch"))
        moving = build_backbone(Backbone("timm:res2net101d", "pytorch", deformable=True))
    model = body.stages[0]
    layers = [getattr(model, f"layer{i}") for i in range(1, 5)]
    assert [len(layer) for layer in layers] == [3, 4, 23, 3]
    assert [layer[0].width for layer in layers] == [26, 52, 104, 208] and layers[0][0].scale == 4
    # Deep stem, and downsampling by average pooling that leaves the padding out.
    stem = [m for m in model.conv1 if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.stride[0]) for c in stem] == [(32, (3, 3), 2), (32, (3, 3), 1),
                                                                           (64, (3, 3), 1)]
    pool = layers[1][0].downsample[0]
    assert isinstance(pool, nn.AvgPool2d) and pool.ceil_mode and not pool.count_include_pad
    # The three split convolutions of every block from C3 on: width -> 27 channels that predict.
    number = {52: 4, 104: 23, 208: 3}
    assert sum(isinstance(m, ModulatedConv2d) for m in moving.modules()) == 3 * 30
    predicting = sum(3 * blocks * (width * 27 * 9 + 27) for width, blocks in number.items())
    total = [sum(p.numel() for p in b.parameters()) for b in (body, moving)]
    assert total == [_res2net_parameters(), _res2net_parameters() + predicting]


def _res2net_parameters() -> int:
    """Of Res2Net-101 v1d 26w4s without classifier, by its description."""
    total, inside = 3 * 32 * 9 + 2 * 32 + 32 * 32 * 9 + 2 * 32 + 32 * 64 * 9 + 2 * 64, 64
    for planes, blocks in ((64, 3), (128, 4), (256, 23), (512, 3)):
        width, outside = planes * 26 // 64, 4 * planes
        for i in range(blocks):
            total += inside * 4 * width + 2 * 4 * width  # 1x1
            total += 3 * (width * width * 9 + 2 * width)  # 3x3, three of four splits
            total += 4 * width * outside + 2 * outside  # 1x1
            if i == 0:
                total += inside * outside + 2 * outside
            inside = outside
    return total


def test_towers_end_with_one():
    tower = Tower(64, 3, deformable=True)
    assert [type(m).__name__ for m in tower.layers[::3]] == ["Conv2d", "Conv2d", "ModulatedConv2d"]
    assert float(tower.layers[6].conv.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not is_deformable(Tower(64, 3)) and is_deformable(tower) and not is_deformable(Tower(64, 0, deformable=True))


def test_contract():
    def build() -> DenseDetector:
        body = build_backbone(Backbone("mobilenet_v2", "pytorch", deformable=True))
        neck = FPN(body.channels[1:], channels=64)
        head = DenseHead({"a": PointPredictor(64, 3, "exp_stride", "box")}, neck.strides, 64, depth=1, deformable=True)
        return DenseDetector(body, neck, head)

    assert "every learning parameter is used" in check_network(build)


def test_what_it_costs():
    # Each deformable convolution costs itself and the one that predicts; counted on the meta device.
    plain = cost(lambda: atss(towers=Towers()).network(80), (256, 320)).total
    moving = cost(lambda: atss(towers=Towers(deformable=True)).network(80), (256, 320)).total
    pixels = 32 * 40 + 16 * 20 + 8 * 10 + 4 * 5 + 2 * 3
    assert moving.parameters - plain.parameters == 2 * (256 * 27 * 9 + 27)
    assert moving.conv_macs - plain.conv_macs == 2 * 256 * 27 * 9 * pixels


def test_nothing_to_replace():
    assert make_deformable(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(4, 4))) == 0
    outer = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3, bias=False)))
    assert make_deformable(outer) == 2 and isinstance(outer[1][0], ModulatedConv2d)
