"""The one-to-many assignment of DeFCN's auxiliary loss, by hand and by its properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bifocals.assign import POTOAux
from bifocals.check import check_assigner
from bifocals.check.scene import scene_output, scene_target
from bifocals.structures import DenseOutput, Prediction, Priors, Target, make_points, pairwise_iou, points_inside


@pytest.mark.parametrize("assigner", [POTOAux(), POTOAux(alpha=0.5, top=3), POTOAux(top=1)], ids=repr)
def test_contract(assigner):
    assert "a batch equals its images one by one" in check_assigner(assigner)


def row_of_points(num: int) -> Priors:
    """One level of stride 16: points at x = 8, 24, 40, ... on y = 8."""
    return make_points([(1, num)], [16])


def objects(*boxes: tuple[float, float, float, float]) -> Target:
    made = torch.tensor(boxes, dtype=torch.float32)
    return Target(made, torch.arange(len(boxes)), torch.zeros(len(boxes), dtype=torch.bool), (64, 256), (64, 256))


def sure(probability: list[list[float]], boxes: Tensor) -> Prediction:
    """Predictions whose quality is the probability alone: all boxes are the first object."""
    return Prediction(torch.tensor(probability).logit(), boxes, boxes)


def test_candidates_threshold_and_inside_by_hand():
    # With alpha 0 the quality is the probability. The object holds the points at 8, 24, 40 and 56.
    target = objects((0, 0, 64, 16))
    boxes = target.boxes.expand(8, 4)
    spread = [[p] for p in (0.9, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)]
    # Four candidates .9 .1 .1 .1: mean .3, deviation .4, threshold .7.
    assert POTOAux(0, 4)(row_of_points(8), target, sure(spread, boxes)).prior.tolist() == [0]
    # The best point outside of the object is a candidate and raises the threshold, but it is no positive.
    outside = [[p] for p in (0.6, 0.1, 0.1, 0.1, 0.05, 0.9, 0.05, 0.05)]
    # .9 .6 .1: mean .5333, deviation .4041: nothing inside reaches .9375.
    assert POTOAux(0, 3)(row_of_points(8), target, sure(outside, boxes)).prior.tolist() == []
    # All eight: mean .2438, deviation .3234: .6 reaches .5672.
    assert POTOAux(0, 8)(row_of_points(8), target, sure(outside, boxes)).prior.tolist() == [0]


def test_candidates_are_taken_of_each_level():
    # Two levels with 4 and 2 points; two candidates each. Fine .9 .8, coarse .3 .2: mean .55, deviation .3512.
    priors = make_points([(1, 4), (1, 2)], [16, 32])
    target = objects((0, 0, 64, 32))
    probability = [[0.9], [0.8], [0.7], [0.7], [0.3], [0.2]]
    match = POTOAux(0, 2)(priors, target, sure(probability, target.boxes.expand(6, 4)))
    assert match.prior.tolist() == []  # .9012 is above .9
    probability[0] = [0.95]  # mean .5625, deviation .3683: it reaches .9308
    assert POTOAux(0, 2)(priors, target, sure(probability, target.boxes.expand(6, 4))).prior.tolist() == [0]
    # No level belongs to a size: the coarse point is positive where it is the best.
    probability = [[0.1], [0.1], [0.1], [0.1], [0.9], [0.1]]
    assert POTOAux(0, 2)(priors, target, sure(probability, target.boxes.expand(6, 4))).prior.tolist() == [4]


def test_a_point_claimed_twice_goes_to_the_better_quality():
    priors = row_of_points(4)
    target = objects((0, 0, 64, 16), (0, 0, 63, 16))
    boxes = target.boxes[:1].expand(4, 4)
    probability = [[0.9, 0.95], [0.1, 0.1], [0.1, 0.1], [0.1, 0.1]]  # of class 0 and 1, the labels of the objects
    match = POTOAux(0, 4)(priors, target, sure(probability, boxes))
    assert (match.prior.tolist(), match.gt.tolist()) == ([0], [1])
    probability[0] = [0.95, 0.9]
    match = POTOAux(0, 4)(priors, target, sure(probability, boxes))
    assert (match.prior.tolist(), match.gt.tolist()) == ([0], [0])


def test_a_single_candidate_is_its_own_threshold():
    target = objects((0, 0, 16, 16))
    match = POTOAux()(row_of_points(1), target, sure([[0.3]], target.boxes))
    assert match.prior.tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_against_the_rule_written_out(seed: int):
    output, target = scene_output(1, seed), scene_target(7, seed)
    match = POTOAux(0.8, 5)(output.priors, target, output.prediction(0))
    assert sorted(zip(match.prior.tolist(), match.gt.tolist(), strict=True)) == written_out(output, target, 0.8, 5)
    assert len(match.prior) > 0


def written_out(output: DenseOutput, target: Target, alpha: float, top: int) -> list[tuple[int, int]]:
    """Object by object and level by level."""
    probability = output.logits[0].detach().sigmoid()
    iou = pairwise_iou(output.boxes[0].detach(), target.boxes)
    inside = points_inside(output.priors.points, target.boxes)
    claims: dict[int, tuple[float, int]] = {}
    for g, label in enumerate(target.labels.tolist()):
        quality = probability[:, label] ** (1 - alpha) * iou[:, g] ** alpha
        candidates, start = [], 0
        for size in output.priors.level_sizes:
            order = quality[start : start + size].argsort(descending=True)[:top]
            candidates += [start + int(i) for i in order]
            start += size
        values = quality[candidates]
        threshold = values.mean() + values.std()
        for p in candidates:
            better = p not in claims or float(quality[p]) > claims[p][0]
            if quality[p] >= threshold and inside[p, g] and better:
                claims[p] = (float(quality[p]), g)
    return sorted((p, g) for p, (_, g) in claims.items())


@pytest.mark.parametrize(("make", "message"), [
    (lambda: POTOAux(alpha=-1), "alpha in \\[0, 1\\], got -1"),
    (lambda: POTOAux(top=0), "top of at least 1 point a level, got 0"),
])
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
