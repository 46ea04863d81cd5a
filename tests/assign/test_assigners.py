"""Numbers that a person can verify, properties of random scenes, and the options' errors."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from bifocals.assign import FCOS, POTO, MinCost
from bifocals.check import check_assigner
from bifocals.check.scene import scene_output, scene_target
from bifocals.structures import Match, Prediction, Target, make_points

ALL = [FCOS(), FCOS(1.5), POTO(), POTO(outside="minus_one"), POTO(radius=0), MinCost(), MinCost(solver="argmin"),
       MinCost(box_format="xyxy", eps=1e-8)]


@pytest.mark.parametrize("assigner", ALL, ids=repr)
def test_contract(assigner):
    assert "the order of objects does not matter" in check_assigner(assigner)


def one_box(*box: float) -> Target:
    boxes = torch.tensor([box], dtype=torch.float32)
    return Target(boxes, torch.tensor([0]), torch.tensor([False]), (64, 64), (64, 64))


def test_fcos_by_hand():
    # One level of stride 16 on 64x64: centers 8, 24, 40, 56. The box (12, 12, 52, 52) holds those at 24 and 40.
    priors = make_points([(4, 4)], [16])
    match = FCOS(ranges=((-1, 64),))(priors, one_box(12, 12, 52, 52))
    assert match.prior.tolist() == [5, 6, 9, 10]
    # max(l, t, r, b) is 28 for all four: a range that ends or starts there takes them, one that ends before does not.
    assert len(FCOS(ranges=((-1, 28),))(priors, one_box(12, 12, 52, 52)).prior) == 4
    assert len(FCOS(ranges=((28, 99),))(priors, one_box(12, 12, 52, 52)).prior) == 4
    assert len(FCOS(ranges=((-1, 27.9),))(priors, one_box(12, 12, 52, 52)).prior) == 0
    # A point on the border is outside; half a stride around (30, 30) holds (24, 24) alone.
    assert len(FCOS(ranges=((-1, 64),))(priors, one_box(24, 10, 50, 50)).prior) == 2
    assert FCOS(0.5, ((-1, 64),))(priors, one_box(10, 10, 50, 50)).prior.tolist() == [5]


def test_fcos_gives_a_point_to_the_smaller_box():
    priors = make_points([(4, 4)], [16])
    boxes = torch.tensor([[0.0, 0, 64, 64], [16, 16, 32, 32]])
    target = Target(boxes, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool), (64, 64), (64, 64))
    match = FCOS(ranges=((-1, 64),))(priors, target)
    gt_of = dict(zip(match.prior.tolist(), match.gt.tolist(), strict=True))
    assert gt_of[5] == 1 and len(gt_of) == 16 and sum(gt_of.values()) == 1


def test_fcos_needs_a_range_for_each_level():
    with pytest.raises(ValueError, match="FCOS has ranges for 5 levels, but the priors have 1 levels"):
        FCOS()(make_points([(4, 4)], [16]), one_box(0, 0, 9, 9))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("outside", ["zero", "minus_one"])
def test_poto_on_few_rows_is_as_good_as_on_all(seed: int, outside):
    output, target = scene_output(1, seed), scene_target(9, seed)
    assigner = POTO(outside=outside)
    match = assigner(output.priors, target, output.prediction(0))
    quality = assigner.quality(output.priors, target, output.prediction(0))
    rows, columns = linear_sum_assignment(quality.double().numpy(), maximize=True)
    best = quality[rows, columns].double().sum()
    torch.testing.assert_close(quality[match.prior, match.gt].double().sum(), best, rtol=1e-9, atol=1e-9)
    assert sorted(match.gt.tolist()) == list(range(9))  # every object, once


@pytest.mark.parametrize("seed", range(8))
def test_min_cost_on_few_rows_is_as_good_as_on_all(seed: int):
    output, target = scene_output(1, seed), scene_target(9, seed)
    match = MinCost()(output.priors, target, output.prediction(0))
    cost = MinCost().cost_terms(target, output.prediction(0)).sum(0).double()
    rows, columns = linear_sum_assignment(cost.numpy())
    torch.testing.assert_close(cost[match.prior, match.gt].sum(), cost[rows, columns].sum(), rtol=1e-9, atol=1e-9)
    assert len(set(match.prior.tolist())) == 9


def test_argmin_lets_objects_share_a_prior():
    output, target = scene_output(1), scene_target(1)
    twice = Target(target.boxes.repeat(2, 1), target.labels.repeat(2), torch.zeros(2, dtype=torch.bool),
                   target.size_hw, target.original_hw)
    match = MinCost(solver="argmin")(output.priors, twice, output.prediction(0))
    assert match.prior[0] == match.prior[1]
    match = MinCost()(output.priors, twice, output.prediction(0))
    assert match.prior[0] != match.prior[1]


def test_min_cost_survives_boxes_without_area():
    priors = make_points([(4, 4)], [16])
    flat = torch.cat([priors.points, priors.points], dim=1)
    prediction = Prediction(torch.zeros(16, 2), flat, flat)
    match = MinCost()(priors, one_box(8, 8, 8, 8), prediction)
    assert match.prior.tolist() == [0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: POTO(alpha=2), "alpha in \\[0, 1\\], got 2"),
        (lambda: POTO(radius=-1), "radius of 0"),
        (lambda: POTO(outside="two"), "got 'two'"),
        (lambda: FCOS(center_radius=0), "above 0, got 0"),
        (lambda: FCOS(ranges=((3, 1),)), "low < high"),
        (lambda: MinCost(l1=-1), "weights cls, l1, giou of 0 or more"),
        (lambda: MinCost(solver="best"), "got 'cxcywh' and 'best'"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_checker_finds_broken_assigners():
    def repeats(priors, target, prediction):
        gt = torch.zeros(2 * bool(len(target.labels)), dtype=torch.int64)
        return Match(gt, gt)

    def first_object_first(priors, target, prediction):
        gt = torch.arange(len(target.labels))
        return Match(gt, gt)

    def out_of_range(priors, target, prediction):
        gt = torch.arange(len(target.labels))
        return Match(gt + len(priors), gt)

    for broken, message in ((repeats, "each pair once"), (first_object_first, "another order"),
                            (out_of_range, "expected prior from 0 to")):
        with pytest.raises(ValueError, match=message):
            check_assigner(broken)
