"""QFL, VFL, DR and DFL by hand and against plain formulas over one-hot targets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import DR, QualityFocal, Varifocal, distance_targets, distribution_focal_loss
from bifocals.structures import Matched, Matches
from tests.golden.losses import matched_rows


@pytest.mark.parametrize("make", [QualityFocal, Varifocal, lambda: Varifocal(weighted=False), DR])
def test_contract(make):
    assert "finite without objects, graph kept" in check_loss(make)


def one_row(logits: list[float], label: int, quality: float) -> Matched:
    rows = torch.tensor([logits], dtype=torch.float32)
    return matched_rows(rows, torch.tensor([label]), quality=torch.tensor([quality]))


def test_quality_focal_by_hand():
    # p = .5 twice; the object's target is .8: (.3)^2 ln 2 and (.5)^2 ln 2, cross-entropy being ln 2 at p = .5.
    assert float(QualityFocal()(one_row([0, 0], 1, 0.8))) == pytest.approx((0.09 + 0.25) * math.log(2), rel=1e-5)


def test_varifocal_by_hand():
    matched = one_row([0, 0], 1, 0.8)
    assert float(Varifocal()(matched)) == pytest.approx((0.8 + 0.75 * 0.25) * math.log(2), rel=1e-5)
    assert float(Varifocal(weighted=False)(matched)) == pytest.approx((1 + 0.75 * 0.25) * math.log(2), rel=1e-5)


def targets_of(matched: Matched) -> torch.Tensor:
    """The IoU of each pair at its entry, the highest where there are several."""
    targets = torch.zeros_like(matched.output.logits)
    m = matched.matches
    index = (m.image, m.prior, matched.target_labels)
    for value, *entry in zip(matched.iou.detach().tolist(), *(i.tolist() for i in index), strict=True):
        targets[tuple(entry)] = max(float(targets[tuple(entry)]), value)
    return targets


@pytest.mark.parametrize("name", ["qfl", "vfl"])
def test_equal_to_the_formula_on_dense_targets(name: str):
    matched = scene_matched((6, 0, 3))
    loss = (QualityFocal() if name == "qfl" else Varifocal())(matched)
    loss.backward()
    logits, targets = matched.output.logits.detach().requires_grad_(), targets_of(matched)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = (targets - logits.sigmoid()).abs() ** 2
    if name == "vfl":
        weight = torch.where(targets > 0, targets, 0.75 * weight)
    expected = (weight * entropy).sum() / len(matched.matches)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(matched.output.logits.grad, logits.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [QualityFocal(), Varifocal()], ids=repr)
def test_of_two_objects_of_a_class_the_better_placed_one_is_learned(loss):
    matched = scene_matched((1,))
    m, target = matched.matches, matched.targets[0]
    both = torch.cat([target.boxes, target.boxes + 500])  # the second one overlaps with nothing
    two = replace(target, boxes=both, labels=target.labels.repeat(2), crowd=target.crowd.repeat(2))
    assert bool((matched.iou > 0).all())
    alone = float((loss(matched) * len(m)).detach())
    for order in ((0, 1), (1, 0)):
        pairs = Matches(m.image.repeat(2), m.prior.repeat(2), torch.cat([m.gt + gt for gt in order]))
        total = loss(Matched(matched.output, [two], pairs)) * 2 * len(m)
        assert float(total.detach()) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("loss", [QualityFocal(), Varifocal(), DR()], ids=repr)
def test_ignored_priors_give_no_loss(loss):
    matched = scene_matched((2, 1))
    ignore = torch.zeros(matched.output.logits.shape[:2], dtype=torch.bool)
    first = matched.matches.image[0], matched.matches.prior[0]
    ignore[first] = True
    ignore[:, 5] = True
    loss(Matched(matched.output, matched.targets, replace(matched.matches, ignore=ignore))).backward()
    gradient = matched.output.logits.grad
    assert bool((gradient[ignore] == 0).all())
    assert bool((gradient[:, 6] != 0).all())


def test_dr_by_hand():
    # One object at p = .5 and one background at p = .5: n = q = .5, so 4 / 6 * ln(1 + e^3).
    assert float(DR()(one_row([0, 0], 0, 1.0))) == pytest.approx(4 / 6 * math.log1p(math.exp(3)), rel=1e-5)
    # No object: q = 1, and n is all that is there.
    assert float(DR()(one_row([0, 0], 2, 1.0))) == pytest.approx(4 / 6 * math.log(2), rel=1e-5)


def test_dr_is_exact_when_objects_are_far_above_the_background():
    logits = torch.full((50, 4), -12.0, dtype=torch.float64)
    labels = torch.full((50,), 4)
    labels[:10] = 1
    logits[:10, 1] = 12.0
    exact = DR()(matched_rows(logits, labels))
    torch.testing.assert_close(DR()(matched_rows(logits.float(), labels)), exact.float(), rtol=1e-5, atol=0)


def test_dr_without_anything_that_counts():
    logits = torch.zeros(3, 2, requires_grad=True)
    loss = DR()(matched_rows(logits, torch.tensor([2, 2, 2]), torch.zeros(3, dtype=torch.bool)))
    loss.backward()
    assert bool(logits.grad.isfinite().all())


def test_distribution_focal_by_hand():
    # 2.25 lies between 2 and 3; all five are equally likely.
    loss = distribution_focal_loss(torch.zeros(1, 5), torch.tensor([2.25]))
    assert float(loss) == pytest.approx(math.log(5))
    sure = torch.tensor([[0.0, 0.0, math.log(3.0), 0.0, 0.0]])  # 3/7 at 2, 1/7 elsewhere
    expected = 0.75 * math.log(7 / 3) + 0.25 * math.log(7)
    assert float(distribution_focal_loss(sure, torch.tensor([2.25]))) == pytest.approx(expected)


def test_distances_are_cut_below_the_last_bin():
    point, box = torch.tensor([[5.0, 5.0]]), torch.tensor([[2.0, 6.0, 30.0, 9.0]])
    torch.testing.assert_close(distance_targets(point, box, 16.0), torch.tensor([[3.0, 0.0, 15.9, 4.0]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QualityFocal(beta=-1), "beta of 0 or more"),
        (lambda: Varifocal(alpha=-1), "alpha and gamma of 0 or more"),
        (lambda: DR(sharpness=0), "sharpness above 0"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
