"""Star offsets by hand, the plain and the refining predictor, where gradient goes, and what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bifocals.check import check_network
from bifocals.evaluate.cost import cost
from bifocals.networks import (
    FPN,
    Backbone,
    DenseDetector,
    DenseHead,
    SidesPredictor,
    StarPredictor,
    build_backbone,
    star_offsets,
)
from bifocals.recipes import hcral
from bifocals.structures import Anchors, DenseOutput


def test_the_unit_box_is_the_plain_kernel():
    assert not star_offsets(torch.ones(2, 4, 3, 5)).any()


def test_offsets_by_hand():
    # left 2, top 3, right 4, bottom 5: the taps go to the corners, to the middles of the sides and to the center.
    sides = torch.tensor([2.0, 3, 4, 5]).view(1, 4, 1, 1)
    offsets = star_offsets(sides).view(9, 2)
    grid = torch.tensor([[y, x] for y in (-1.0, 0, 1) for x in (-1.0, 0, 1)])
    expected = [[-3, -2], [-3, 0], [-3, 4], [0, -2], [0, 0], [0, 4], [5, -2], [5, 0], [5, 4]]
    assert (offsets + grid).tolist() == expected


def test_a_tenth_of_the_gradient_goes_back():
    pixels = torch.rand(1, 4, 2, 2).add(1).requires_grad_()
    stride = 16
    star_offsets(pixels / stride)[:, [0, 2, 4]].sum().backward()  # dy of the upper three taps: minus the top
    assert pixels.grad is not None
    assert pixels.grad[0, 1].unique().tolist() == pytest.approx([-3 * 0.1 / stride])
    assert not pixels.grad[0, [0, 2, 3]].any()
    whole = torch.ones(1, 4, 1, 1, requires_grad=True)
    star_offsets(whole, gradient=1.0).abs().sum().backward()
    none = torch.ones(1, 4, 1, 1, requires_grad=True)
    (star_offsets(none, gradient=0.0) ** 2).sum().backward()
    assert none.grad is not None and not none.grad.any()


def head_of(predictor: nn.Module, strides: tuple[int, ...] = (8, 16)) -> DenseHead:
    return DenseHead({"a": predictor}, strides, 64, depth=0)


def maps(seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 64, s, s, generator=draw) for s in (4, 2)]


def test_distances_of_the_plain_one_by_hand():
    predictor = SidesPredictor(64, 2)
    nn.init.zeros_(predictor.box.weight)
    nn.init.constant_(predictor.box.bias, math.log(0.25))
    with torch.no_grad():
        output = head_of(predictor)(maps())["a"]
    # A quarter of the anchor's side, 64 pixels on the first level and 128 on the second, around (column, row) * stride.
    assert output.boxes[0, 1].tolist() == pytest.approx([8 - 16, -16, 8 + 16, 16])
    assert output.boxes[0, 16].tolist() == pytest.approx([-32, -32, 32, 32])
    assert output.priors.boxes[1].tolist() == [8 - 32, -32, 8 + 32, 32]
    assert output.initial is None and output.quality is not None
    assert output.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.3)
    assert head_of(SidesPredictor(64, 2, quality=False))(maps())["a"].quality is None


def refined() -> tuple[StarPredictor, DenseOutput]:
    torch.manual_seed(1)
    predictor = StarPredictor(64, 2, num_levels=2)
    nn.init.constant_(predictor.initial.bias, math.log(0.125))
    nn.init.constant_(predictor.box.bias, math.log(2.0))
    for part in (predictor.initial, predictor.box):
        nn.init.zeros_(part.weight)
    return predictor, head_of(predictor)(maps())["a"]


def test_the_refinement_multiplies():
    _, output = refined()
    # An eighth of 64 pixels is the stride: the unit box, whose star is a plain kernel. Twice that is the final box.
    assert output.initial[0, 5].tolist() == pytest.approx([8 - 8, 8 - 8, 8 + 8, 8 + 8])
    assert output.boxes[0, 5].tolist() == pytest.approx([8 - 16, 8 - 16, 8 + 16, 8 + 16])
    torch.testing.assert_close(output.deltas[0, 5], torch.full((4,), 16.0))
    before = output.before_refinement()
    assert before.boxes is output.initial and before.logits is output.logits
    with pytest.raises(ValueError, match="a loss of initial boxes belongs to a predictor that refines them"):
        before.before_refinement()
    assert output.detach().initial.requires_grad is False


def test_where_gradient_goes():
    predictor, output = refined()
    output.boxes.sum().backward(retain_graph=True)
    # Not through the product; and the star of a map that the refinement does not read (weight 0) says nothing.
    assert not predictor.initial.bias.grad.any() and predictor.box.bias.grad.any()
    predictor.zero_grad()
    output.initial.square().sum().backward()
    assert predictor.initial.bias.grad.any() and predictor.box.bias.grad is None
    predictor, _ = refined()
    nn.init.normal_(predictor.box.weight, std=0.01)
    head_of(predictor)(maps())["a"].boxes.sum().backward()
    assert predictor.initial.bias.grad.any()  # through the offsets


def test_the_unit_box_reads_what_a_plain_convolution_reads():
    predictor, output = refined()
    feature = maps()[0]
    with torch.no_grad():
        plain = predictor.cls(nn.functional.conv2d(feature, predictor.cls_star.weight, padding=1).relu())
    torch.testing.assert_close(output.logits[:, :16], plain.permute(0, 2, 3, 1).flatten(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sides", "star"])
def test_contract(kind: str):
    def build() -> DenseDetector:
        body = build_backbone(Backbone("mobilenet_v2", "pytorch"))
        neck = FPN(body.channels[1:], channels=64)
        made = SidesPredictor(64, 3) if kind == "sides" else StarPredictor(64, 3)
        return DenseDetector(body, neck, DenseHead({"one2many": made}, neck.strides, 64, depth=1))

    assert "every learning parameter is used" in check_network(build)


def test_what_the_quality_reads():
    feature = maps()
    for source, read in (("initial", False), ("refined", True)):
        predictor = StarPredictor(64, 2, quality=source, num_levels=2)
        head_of(predictor)(feature)["a"].quality.sum().backward()
        assert (predictor.box_star.weight.grad is not None) == read
        assert predictor.initial_tower.layers[0].weight.grad is not None  # the offsets of the star come from there too
    assert head_of(StarPredictor(64, 2, quality=None, num_levels=2))(feature)["a"].quality is None


def test_initialization():
    predictor = StarPredictor(64, 3)
    for conv in (predictor.box_star, predictor.cls_star, predictor.box, predictor.initial, predictor.cls):
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert predictor.box_star.bias is None and predictor.cls_star.bias is None
    assert predictor.cls.bias.tolist() == pytest.approx([-math.log(99)] * 3)
    assert predictor.scales.tolist() == [1.0] * 5


def test_what_they_cost():
    # R50 at 800x1280, 80 classes, by the description: towers of 4 convolutions, of which the star head has the last.
    pixels = 100 * 160 + 50 * 80 + 25 * 40 + 13 * 20 + 7 * 10
    conv, norm = 256 * 256 * 9, 2 * 256
    plain = cost(lambda: hcral().network(80), (800, 1280))
    head = 8 * (conv + norm) + (256 * 9 + 1) * (80 + 4 + 1) + 5
    assert plain.total.parameters == plain.parts["backbone"].parameters + plain.parts["neck"].parameters + head
    # FCOS of the same size: the structure has its parameters, number by number.
    assert plain.total.parameters == 32_295_322
    star = cost(lambda: hcral(aux=True).network(80), (800, 1280)).total
    # Instead of the last convolutions with norm (2): one with norm, two stars without; a refinement and its scales.
    more = conv - norm + 256 * 9 * 4 + 4 + 5
    assert star.parameters - plain.total.parameters == more
    assert star.conv_macs - plain.total.conv_macs == pixels * (conv + 256 * 9 * 4)


def test_errors():
    with pytest.raises(ValueError, match="StarPredictor expected one square anchor a point, got 9 of ratios"):
        StarPredictor(64, 3, Anchors())
    with pytest.raises(ValueError, match="SidesPredictor expected at least one class, got 0"):
        SidesPredictor(64, 0)
    with pytest.raises(ValueError, match="gradient in .0, 1., got 2"):
        StarPredictor(64, 3, gradient=2.0)
