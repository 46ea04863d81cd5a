"""3D max filtering: the module by hand and by a recorded fixture, the filtered logits, the predictor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bifocals.check import check_network
from bifocals.networks import (
    FPN,
    Backbone,
    DenseDetector,
    DenseHead,
    FilteredPredictor,
    MaxFilter3D,
    PointPredictor,
    build_backbone,
    filtered_logits,
    prune,
)

SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def wave(shape: tuple[int, ...], b: float, w: float, phase: float = 0.0, a: float = 0.0) -> Tensor:
    t = np.arange(math.prod(shape), dtype=np.float64)
    return torch.from_numpy((a + b * np.sin(w * t + phase)).astype(np.float32)).reshape(shape)


def test_the_recorded_sums_of_the_original():
    # Recorded from the original with these closed-form weights and inputs.
    filters = MaxFilter3D(32)
    filters.conv.load_state_dict({"weight": wave((32, 32, 3, 3), 0.05, 0.37), "bias": wave((32,), 0.1, 0.5)})
    filters.norm.load_state_dict({"weight": wave((32,), 0.2, 0.3, a=1.0), "bias": wave((32,), 0.1, 0.2)})
    with torch.no_grad():
        levels = filters([wave((2, 32, *size), 1.0, 0.11, i) for i, size in enumerate(SIZES)])
    sums = [float(y.sum()) for y in levels]
    assert sums == pytest.approx([7253.6855, 1872.4551, 459.9059, 117.7073, 1.9975], abs=1e-3)
    corners = [float(y[1, 5, -1, -1]) for y in levels]
    assert corners == pytest.approx([1.277693, 0, 2.779817, 1.651118, 0.084143], abs=1e-5)


def identity_filter(**options: int) -> MaxFilter3D:
    """The convolution passes its one channel on, and there is no norm: what stays is the maximum plus the input."""
    filters = MaxFilter3D(1, None, **options)
    nn.init.zeros_(filters.conv.weight)
    with torch.no_grad():
        filters.conv.weight[0, 0, 1, 1] = 1.0
    return filters


def test_neighbors_by_hand():
    # One bright pixel in the middle level, elsewhere 0: it reaches 3x3 pixels around itself, and the pixels of the
    # levels beside that see it; the levels beyond see nothing. The pixel's own value is added to its own place.
    levels = [torch.zeros(1, 1, s, s) for s in (16, 8, 4, 2, 1)]
    levels[2][0, 0, 1, 1] = 2.0
    with torch.no_grad():
        out = identity_filter()(levels)
    expected = torch.zeros(4, 4)
    expected[:3, :3] = 2.0
    expected[1, 1] = 4.0
    assert torch.equal(out[2][0, 0], expected)
    assert not out[0].any() and not out[4].any()
    # Twice as fine: the pixel has weights 1/4, 3/4, 3/4, 1/4 on rows and columns 1 to 4; one more around by the window.
    once = torch.tensor([1.0, 3, 3, 3, 3, 1, 0, 0]) / 4
    torch.testing.assert_close(out[1][0, 0], 2 * once[:, None] * once[None, :])
    # Twice as coarse: the mean of four pixels, without antialiasing, reaches all 2x2.
    torch.testing.assert_close(out[3], torch.full((1, 1, 2, 2), 0.5))


def test_a_reach_of_no_level_and_no_pixel_is_twice_the_input():
    levels = [torch.rand(1, 1, s, s) for s in (4, 2)]
    with torch.no_grad():
        out = identity_filter(tau=0, kernel=1)(levels)
    for x, y in zip(levels, out, strict=True):
        torch.testing.assert_close(y, 2 * x)


@pytest.mark.parametrize("options", [{"tau": 1}, {"tau": -2}, {"kernel": 2}, {"kernel": 0}])
def test_bad_neighborhoods_are_named(options: dict[str, int]):
    with pytest.raises(ValueError, match="MaxFilter3D expected an even tau of 0 or more and an odd kernel, got"):
        MaxFilter3D(32, **options)


def test_filtered_logits_by_hand():
    # sigmoid(0) * sigmoid(ln 3) = 1/2 * 3/4 = 3/8, whose odds are 3 to 5.
    made = filtered_logits(torch.zeros(1, 1, 2), torch.full((1, 1), math.log(3)))
    assert made.flatten().tolist() == pytest.approx([math.log(3 / 5)] * 2)
    # A filter that lets all through changes nothing.
    logits = torch.linspace(-6, 6, 7).view(1, 1, 7)
    torch.testing.assert_close(filtered_logits(logits, torch.full((1, 1), 40.0)), logits, rtol=1e-4, atol=1e-4)


def test_filtered_logits_are_cut_without_gradient():
    logits = torch.tensor([[[-20.0, -3.0, 40.0]]], requires_grad=True)
    made = filtered_logits(logits, torch.full((1, 1), 40.0))
    cut = math.log(1e-5 / (1 - 1e-5))
    assert made.flatten().tolist() == pytest.approx([cut, -3.0, -cut], rel=1e-3)
    made.sum().backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-4)


def detector() -> DenseDetector:
    body = build_backbone(Backbone("resnet18"))
    neck = FPN(body.channels[1:], channels=64)
    predictors = {"one2one": FilteredPredictor(PointPredictor(64, 3, "relu"), 64),
                  "one2many": PointPredictor(64, 3, "exp", "cls")}
    return DenseDetector(body, neck, DenseHead(predictors, neck.strides, 64, depth=1))


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_contract():
    assert "every learning parameter is used" in check_network(detector)


def test_at_the_start_the_filter_halves_the_probability():
    torch.manual_seed(0)
    predictor = FilteredPredictor(PointPredictor(64, 3, "relu"), 64)
    for conv in (predictor.max_filter.conv, predictor.filter):
        assert conv.bias is not None
        assert float(conv.weight.detach().std()) == pytest.approx(0.01, rel=0.15)
        assert not conv.bias.any()
    head = DenseHead({"a": predictor}, (8, 16), 64, depth=1)
    with torch.no_grad():
        output = head([torch.randn(1, 64, 8, 8), torch.randn(1, 64, 4, 4)])["a"]
    assert output.unfiltered is not None
    ratio = output.logits.sigmoid() / output.unfiltered.sigmoid()
    assert float(ratio.mean()) == pytest.approx(0.5, abs=0.05)
    assert output.before_filter().logits is output.unfiltered
    assert output.before_filter().boxes is output.boxes


def test_the_filter_reads_the_box_tower_and_mixes_levels():
    head = DenseHead({"a": FilteredPredictor(PointPredictor(64, 3, "relu"), 64)}, (8, 16), 64, depth=0)
    levels = [torch.randn(1, 64, 8, 8), torch.randn(1, 64, 4, 4, requires_grad=True)]
    output = head(levels)["a"]
    output.logits[:, :64].sum().backward()  # of the fine level alone
    assert levels[1].grad is not None and bool(levels[1].grad.any())


def test_pruning_keeps_the_bits_and_the_filter():
    network = detector().eval()
    pruned = prune(network, "one2one")
    with torch.no_grad():
        full, part = network(images()), pruned(images())
    assert list(part) == ["one2one"]
    assert torch.equal(part["one2one"].logits, full["one2one"].logits)
    without = prune(network, "one2many")
    assert not any("filter" in name for name, _ in without.named_parameters())


def test_under_autocast_the_scores_stay_float32():
    head = detector().head
    levels = [torch.randn(1, 64, s, s) for s in (8, 4, 2, 1, 1)]
    with torch.autocast("cpu", torch.bfloat16):
        output = head(levels)["one2one"]
    assert output.unfiltered is not None
    assert output.logits.dtype == output.unfiltered.dtype == torch.float32
    output.logits.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in head.predictors["one2one"].parameters() if p.grad is not None)
