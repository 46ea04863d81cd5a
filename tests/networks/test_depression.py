"""Depression: how much when, which pixels, what becomes of them and of their gradient, and nothing in evaluation."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
import torch

from bifocals.check import check_network
from bifocals.networks import (
    FPN,
    AnchorPredictor,
    DenseDetector,
    DenseHead,
    Depression,
    Depressor,
    prune,
)
from bifocals.networks.depression import Schedule, loud, loud_channels
from bifocals.structures import Reporting, Scheduled
from tests.export.conftest import TinyBody


def pyramid(seed: int = 0, channels: int = 16) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, h, w, generator=draw) for h, w in ((13, 17), (7, 9), (4, 5), (2, 3), (1, 2))]


def trained_at(ratio: float, **options) -> Depressor:
    part = Depressor(Depression("constant", ratio, **options)).train()
    part.set_step(0, 10)
    assert part.ratio == ratio
    return part


# How much when


def test_the_blocks_of_the_stepped_schedules():
    total = 135_000
    for name, blocks in (("step", [0, 1, 2, 3, 4, 5]), ("symmetric", [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0])):
        ratios = [Depression(name).ratio(t, total) for t in range(1, total + 1)]
        size = total // len(blocks)
        # A block ends before the step that is a multiple of its size; the last one has the last step too.
        expected = [blocks[min(t // size, len(blocks) - 1)] / 10 for t in range(1, total + 1)]
        assert ratios == expected
        assert Counter(ratios)[0.3] == size * blocks.count(3)
    symmetric = [Depression().ratio(t, total) for t in (11_249, 11_250, 56_249, 56_250, 78_749, 78_750, total)]
    assert symmetric == [0.0, 0.1, 0.4, 0.5, 0.5, 0.4, 0.0]
    assert Depression().ratio(90_000, total) == 0.3 and Depression().ratio(89_999, total) == 0.4
    assert Depression("step").ratio(total, total) == 0.5


@pytest.mark.parametrize(("name", "mean"), [
    ("none", 0), ("constant", 0.5), ("step", 0.25), ("symmetric", 0.25), ("linear", 0.25), ("triangular", 0.25),
    ("sigmoid", 0.25), ("reflected_sigmoid", 0.068),
])  # fmt: skip
def test_how_much_is_depressed_on_average(name, mean: float):
    ratios = [Depression(name).ratio(t, 1200) for t in range(1, 1201)]
    assert sum(ratios) / 1200 == pytest.approx(mean, abs=1e-3)
    assert all(0 <= r <= 0.5 for r in ratios)
    half = [Depression(name, largest=0.25).ratio(t, 1200) for t in range(1, 1201)]
    assert half == pytest.approx([r / 2 for r in ratios])


def test_every_schedule_is_known_and_runs_in_few_steps():
    for name in get_args(Schedule):
        ratios = [Depression(name).ratio(t, 3) for t in (1, 2, 3)]
        assert all(0 <= r <= 0.5 for r in ratios)
    with pytest.raises(ValueError, match="got 'log'"):
        Depression("log")
    for wrong in ({"largest": 1.5}, {"factor": -1.0}):
        with pytest.raises(ValueError, match="largest and factor in"):
            Depression(**wrong)


def test_the_clock_counts_finished_steps():
    part = Depressor()
    assert isinstance(part, Scheduled) and isinstance(part, Reporting)
    assert part.scheduled() == {"depression": 0.0}
    seen = []
    for step in range(120):
        part.set_step(step, 120)
        seen.append(part.scheduled()["depression"])
    assert seen == [Depression().ratio(t, 120) for t in range(1, 121)]


# Which pixels


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.4, 0.5, 1.0])
def test_so_many_pixels_of_every_image_and_level(ratio: float):
    for level in pyramid():
        mask = loud(level, ratio)
        height, width = level.shape[-2:]
        assert mask.shape == (2, 1, height, width)
        assert mask.flatten(1).sum(1).tolist() == [int(ratio * height * width)] * 2


def test_counts_are_those_of_integers():
    for name, stages in (("symmetric", range(12)), ("step", range(6))):
        for stage in stages:
            tenths = min(stage, 11 - stage) if name == "symmetric" else stage
            ratio = Depression(name).ratio(max(1, stage * 100), 100 * len(stages))
            assert [int(ratio * n) for n in range(30_000)] == [tenths * n // 10 for n in range(30_000)]


@pytest.mark.parametrize(("hw", "tenth", "half"), [
    ((100, 168), 1680, 8400), ((50, 84), 420, 2100), ((25, 42), 105, 525), ((13, 21), 27, 136), ((7, 11), 7, 38),
])  # fmt: skip
def test_counts_of_a_large_image(hw, tenth: int, half: int):
    level = torch.randn(1, 2, *hw)
    assert (int(loud(level, 0.1).sum()), int(loud(level, 0.5).sum())) == (tenth, half)


def test_the_loudest_pixels_by_hand():
    # Two channels of means 3 and -1: the activation is 3 a - b.
    a, b = torch.tensor([[0.0, 4], [8, 0]]), torch.tensor([[-8.0, 4], [0, 0]])
    level = torch.stack([a, b])[None]
    assert level.mean(dim=(2, 3)).tolist() == [[3.0, -1.0]]
    assert loud(level, 0.25)[0, 0].tolist() == [[False, False], [True, False]]  # 24, then 8 twice, then 0
    assert int(loud(level, 0.5).sum()) == 2 and bool(loud(level, 0.5)[0, 0, 1, 0])


def test_the_choice_does_not_depend_on_scale_or_on_other_images():
    for level in pyramid():
        assert torch.equal(loud(level * 7.5, 0.4), loud(level, 0.4))
        assert torch.equal(loud(level[1:], 0.4), loud(level, 0.4)[1:])


def test_equal_pixels_are_counted_exactly():
    assert int(loud(torch.ones(1, 3, 4, 5), 0.3).sum()) == 6


def test_channels():
    level = pyramid()[0]
    mask = loud_channels(level, 0.3)
    assert mask.shape == (2, 16, 1, 1) and mask.flatten(1).sum(1).tolist() == [4, 4]
    mean = level.mean(dim=(2, 3))
    for row, chosen in zip(mean, mask.flatten(1), strict=True):
        assert row[chosen].min() > row[~chosen].max()
    depressed = trained_at(0.3, channels=True)(pyramid())[0]
    assert torch.equal(depressed, torch.where(mask | loud(level, 0.3), level / 4, level))


# What becomes of them


@pytest.mark.parametrize("factor", [0.25, 0.0])
def test_depressed_and_kept(factor: float):
    levels = [x.requires_grad_() for x in pyramid()]
    result = trained_at(0.4, factor=factor)(levels)
    torch.stack([v.sum() for v in result]).sum().backward()
    for before, after in zip(levels, result, strict=True):
        mask = loud(before, 0.4).expand_as(before)
        assert torch.equal(after, torch.where(mask, before * factor, before))
        # No gradient flows through the choice: what comes back is 1 or the factor.
        assert torch.equal(before.grad, torch.where(mask, factor, torch.tensor(1.0)))


def test_nothing_to_depress_is_nothing_done():
    levels = pyramid()
    part = trained_at(0.0)
    assert all(a is b for a, b in zip(part(levels), levels, strict=True))
    part = trained_at(0.5).eval()
    assert all(a is b for a, b in zip(part(levels), levels, strict=True))
    fresh = Depressor(Depression("constant")).train()
    assert all(a is b for a, b in zip(fresh(levels), levels, strict=True))


def test_half_precision():
    levels = [x.bfloat16() for x in pyramid()]
    with torch.autocast("cpu", torch.bfloat16):
        result = trained_at(0.3)(levels)
    for before, after in zip(levels, result, strict=True):
        assert after.dtype == torch.bfloat16
        assert torch.equal(after, torch.where(loud(before.float(), 0.3), before / 4, before))


def test_compiled():
    """A compiled network reads psi anew in each step, and is not compiled again for it."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    part = Depressor(Depression("linear")).train()
    network = torch.compile(torch.nn.Sequential(torch.nn.ReLU(), Last(part)), backend=backend)
    level, counts = pyramid()[0], []
    for step in range(20):
        part.set_step(step, 20)
        assert torch.equal(network(level), part([level.relu()])[0] + 1)
        counts.append(len(compiled))
    assert counts[0] > 0 and len(set(counts)) == 1


class Last(torch.nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, level):
        return self.part([level])[0] + 1


# In a detector


def detector(hook: bool = True, scales: bool = True, groups: int | None = 32) -> DenseDetector:
    torch.manual_seed(5)
    body = TinyBody()
    neck = FPN(body.channels[1:], 64)
    predictors = {"one2many": AnchorPredictor(64, 3), "other": AnchorPredictor(64, 3)}
    head = DenseHead(predictors, neck.strides, 64, depth=1, groups=groups, scales=scales)
    return DenseDetector(body, neck, head, Depressor(Depression("constant")) if hook else None)


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_contract():
    def make():
        network = detector()
        network.hook.set_step(0, 10)
        return network

    assert "every learning parameter is used" in check_network(make)


def test_a_detector_is_the_same_with_and_without_in_evaluation_alone():
    network, bare = detector(), detector(hook=False)
    assert list(network.state_dict()) == list(bare.state_dict())
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in bare.parameters())
    network.hook.set_step(5, 10)
    bare.load_state_dict(network.state_dict())
    pruned = prune(network, "one2many")
    for a, b in ((network, bare), (pruned, prune(bare, "one2many"))):
        with torch.no_grad():
            ours, theirs = a.eval()(images())["one2many"], b.eval()(images())["one2many"]
            assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.boxes, theirs.boxes)
            ours, theirs = a.train()(images())["one2many"], b.train()(images())["one2many"]
        assert not torch.equal(ours.deltas, theirs.deltas)
    assert pruned.hook.ratio == 0.5  # a pruned network can go on learning


def test_heads_without_norms_and_scales():
    network = detector(groups=None, scales=False)
    names = {n.split("head.", 1)[1] for n in network.state_dict() if n.startswith("head.")}
    assert names == {f"{p}.{w}" for w in ("weight", "bias") for p in (
        "cls_towers.shared.layers.0", "box_towers.shared.layers.0", "predictors.one2many.cls",
        "predictors.one2many.box", "predictors.other.cls", "predictors.other.box")}
    assert network.head.cls_towers["shared"].layers[0].bias.tolist() == [0.0] * 64
    # Scales of 1 are no scales.
    with_scales = detector(groups=None)
    missing, _ = with_scales.load_state_dict(network.state_dict(), strict=False)
    assert missing == ["head.scales"]
    with torch.no_grad():
        ours, theirs = network.eval()(images())["other"], with_scales.eval()(images())["other"]
    assert torch.equal(ours.boxes, theirs.boxes)
    assert "every learning parameter is used" in check_network(lambda: detector(groups=None, scales=False))
