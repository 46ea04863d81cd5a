"""Closed-form inputs whose losses and pairs were recorded from DATE's own code (and re-derived on their own).

Every map is a + b sin(w t + phase), t the running index over all levels, so the numbers need no file.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bifocals.assign import FCOS, POTO, MinCost
from bifocals.balance import Fixed
from bifocals.losses import L1, Centerness, Focal, IoULoss
from bifocals.networks import filtered_logits, flatten_levels
from bifocals.objective import DenseBranch
from bifocals.structures import DenseOutput, Target, boxes_from_distances, make_points

SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
STRIDES = (8, 16, 32, 64, 128)
WEIGHTS = {"cls": 2.0, "l1": 5.0, "giou": 2.0}


def waves(channels: int, a: float, b: float, w: float, phase: float) -> list[torch.Tensor]:
    levels, start = [], 0
    for height, width in SIZES:
        t = np.arange(start, start + 2 * channels * height * width, dtype=np.float64)
        start += len(t)
        values = (a + b * np.sin(w * t + phase)).astype(np.float32)
        levels.append(torch.from_numpy(values).reshape(2, channels, height, width))
    return levels


def target(boxes: list, labels: list) -> Target:
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(box, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(labels), dtype=torch.bool),
                  (120, 128), (120, 128))


TARGETS = [
    target([[10, 12, 60, 90], [40.5, 30, 100, 70], [5, 5, 7.5, 7.5]], [0, 2, 1]),
    target([[20, 20, 120, 110], [64, 8, 127, 64]], [1, 1]),
]
EMPTY = target([], [])


def one2one_output(zero_boxes: bool = False) -> DenseOutput:
    priors = make_points(SIZES, STRIDES)
    raw = flatten_levels(waves(4, 1.5, 2.5, 1.3, 0.1)) * (0 if zero_boxes else 1)
    sides = raw.relu() * priors.strides[:, None]
    logits = flatten_levels(waves(3, -4, 3, 0.7, 0.3))
    return DenseOutput(logits, sides, boxes_from_distances(priors.points, sides), priors)


def one2one_losses(assigner, output: DenseOutput, targets: list[Target]) -> list[float]:
    losses = {"cls": Focal(), "l1": L1("cxcywh"), "giou": IoULoss("giou", eps=1e-6)}
    branch = DenseBranch(assigner, losses, Fixed(WEIGHTS))
    return [float(v) for v in branch.weigh(branch(output, targets)).values()]


def pairs(assigner, output: DenseOutput, image: int) -> dict[int, int]:
    match = assigner(output.priors, TARGETS[image], output.prediction(image))
    return dict(zip(match.prior.tolist(), match.gt.tolist(), strict=True))


def test_poto():
    output = one2one_output()
    # Point 0 is arbitrary: object 2 is so small that no point lies in it.
    assert pairs(POTO(), output, 0) == {0: 2, 84: 0, 89: 1}
    assert pairs(POTO(), output, 1) == {74: 1, 137: 0}
    assert POTO().candidates(output.priors, TARGETS[0]).sum(0).tolist() == [25, 19, 0]
    assert one2one_losses(POTO(), output, TARGETS) == pytest.approx([3.513606, 1.712549, 1.200640], abs=1e-5)


def test_min_cost():
    output = one2one_output()
    assert pairs(MinCost(), output, 0) == {32: 2, 84: 0, 136: 1}
    assert pairs(MinCost(), output, 1) == {118: 0, 287: 1}
    assert one2one_losses(MinCost(), output, TARGETS) == pytest.approx([2.681102, 1.599022, 1.389393], abs=1e-5)


def test_poto_takes_the_first_points_when_every_quality_is_zero():
    output = one2one_output(zero_boxes=True)
    assert set(pairs(POTO(), output, 0)) == {0, 1, 2}
    assert set(pairs(POTO(), output, 1)) == {0, 1}


def test_poto_minus_one_prefers_a_bad_candidate_to_a_stranger():
    output = one2one_output(zero_boxes=True)
    assigner = POTO(outside="minus_one")
    candidate = assigner.candidates(output.priors, TARGETS[1])
    for prior, gt in pairs(assigner, output, 1).items():
        assert candidate[prior, gt]


def test_images_without_objects():
    output = one2one_output()
    assert one2one_losses(POTO(), output, [EMPTY, EMPTY]) == pytest.approx([10.423834, 0, 0], abs=1e-5)
    half = one2one_losses(POTO(), output, [TARGETS[0], EMPTY])
    assert half == pytest.approx([5.30751, 1.46844, 1.29764], abs=1e-5)


def test_poto_on_filtered_scores():
    output = one2one_output()
    filters = flatten_levels(waves(1, 0, 2, 0.9, 0.5))[..., 0]
    filtered = replace(output, logits=filtered_logits(output.logits, filters), unfiltered=output.logits)
    assert pairs(POTO(), filtered, 0) == {0: 2, 84: 0, 89: 1}
    assert pairs(POTO(), filtered, 1) == {74: 1, 137: 0}
    assert one2one_losses(POTO(), filtered, TARGETS) == pytest.approx([2.258604, 1.712549, 1.200640], abs=1e-5)
    # What the auxiliary loss of DeFCN sees is the output as it was before the filter.
    seen = DenseBranch(POTO(), {"cls": Focal()}, Fixed({"cls": 2.0}), filtered=False)
    assert float(seen.weigh(seen(filtered, TARGETS))["cls"]) == pytest.approx(3.513606, abs=1e-5)


def test_fcos_branch():
    priors = make_points(SIZES, STRIDES)
    sides = (0.8 * flatten_levels(waves(4, 1.5, 2.5, 1.3, 0.1))).exp()
    quality = flatten_levels(waves(1, 0, 1.5, 1.1, 0.2))[..., 0]
    logits = flatten_levels(waves(3, -4, 3, 0.7, 0.3))
    output = DenseOutput(logits, sides, boxes_from_distances(priors.points, sides), priors, quality)
    losses = {"cls": Focal(), "box": IoULoss("log", "centerness", 1e-6), "quality": Centerness()}
    branch = DenseBranch(FCOS(), losses)
    values = [float(v) for v in branch(output, TARGETS).values()]
    assert values == pytest.approx([0.996680, 4.362076, 0.833054], abs=1e-5)
    matches = branch.match(output, TARGETS)
    levels = priors.level_index()[matches.prior]
    assert levels.bincount(minlength=5).tolist() == [137, 40, 0, 0, 0]


def test_a_diverged_prediction_is_named():
    output = one2one_output()
    bad = torch.full_like(output.boxes, math.nan)
    broken = DenseOutput(output.logits, bad, bad, output.priors)
    with pytest.raises(ValueError, match=r"POTO expected finite scores for 2 objects .* the predictions have diverged"):
        POTO()(output.priors, TARGETS[1], broken.prediction(1))
