"""Losses by hand, their contract, and what they must not do: count ignored priors or count a pair twice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from bifocals.check import ContractError, check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import L1, Centerness, Focal, IoUKind, IoULoss, centerness, iou_loss
from bifocals.structures import DenseOutput, Matched, Matches, Priors, Target

KINDS = get_args(IoUKind)
ALL = [Focal(), Focal(0.5, 1.5), Focal(0.25, 0), L1(), L1("xyxy"), Centerness(), *(IoULoss(k) for k in KINDS),
       *(IoULoss(k, "centerness") for k in KINDS)]


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_contract(loss):
    assert "finite without objects, graph kept" in check_loss(lambda: loss)


def one_pair(box: list[float], target_box: list[float], logit: float = 0.0, quality: float = 0.0) -> Matched:
    """An image of 100x100 with one prior at (50, 50), one object, two classes; the object is of class 1."""
    boxes = torch.tensor([[box]], dtype=torch.float32)
    priors = Priors(torch.tensor([[50.0, 50.0]]), torch.tensor([8.0]), (1,))
    output = DenseOutput(torch.full((1, 1, 2), logit), boxes, boxes, priors, torch.full((1, 1), quality))
    target = Target(torch.tensor([target_box], dtype=torch.float32), torch.tensor([1]), torch.tensor([False]),
                    (100, 100), (100, 100))
    zero = torch.zeros(1, dtype=torch.int64)
    return Matched(output, [target], Matches(zero, zero, zero))


def test_focal_by_hand():
    # p = .5 for both classes: alpha .25 * .25 ln 2 for the object, .75 * .25 ln 2 for the other class.
    matched = one_pair([0, 0, 10, 10], [0, 0, 10, 10])
    assert float(Focal()(matched)) == pytest.approx(0.25 * math.log(2))


def test_iou_losses_by_hand():
    # Two 10x10 boxes, half overlapping: IoU 1/3, hull 15x10, centers 5 apart, diagonal^2 325.
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])
    near, cubed = 25 / 325, (25 / 325) ** 3
    cost = 1 - math.exp(-2 / 9)  # offset a third of the hull, along an axis
    expected = {"linear": 2 / 3, "square": 8 / 9, "log": math.log(3), "giou": 2 / 3, "diou": 2 / 3 + near,
                "ciou": 2 / 3 + near, "ciou_gated": 2 / 3 + near, "ciou_wise": 2 / 3 + near, "eiou": 2 / 3 + near,
                "eiou_wise": 2 / 3 + near + 1 / 9, "extended_eiou": 2 / 3 - 0.05,
                "focal_eiou": (2 / 3 + near) / math.sqrt(3), "siou": 2 / 3 + cost / 2,
                "siou_mmdet": 2 / 3 - (math.exp(2 / 9) - 1) / 2, "alpha_iou": 26 / 27, "alpha_giou": 26 / 27,
                "alpha_diou": 26 / 27 + cubed, "alpha_ciou": 26 / 27 + cubed}
    assert set(expected) == set(KINDS)
    for kind, value in expected.items():
        assert float(iou_loss(a, b, kind)) == pytest.approx(value, rel=1e-5), kind


def test_ciou_gate():
    # Same center, 10x10 against 10x8: IoU .8; against 10x4: IoU .4, where the gate switches the aspect term off.
    a = torch.tensor([[0.0, 0, 10, 10]])
    near, far = torch.tensor([[0.0, 1, 10, 9]]), torch.tensor([[0.0, 3, 10, 7]])
    torch.testing.assert_close(iou_loss(a, near, "ciou_gated"), iou_loss(a, near, "ciou"), rtol=1e-5, atol=1e-6)
    assert float(iou_loss(a, far, "ciou_gated")) == pytest.approx(0.6)
    assert float(iou_loss(a, far, "ciou")) > 0.6


def test_l1_by_hand():
    matched = one_pair([0, 0, 20, 10], [0, 0, 10, 10])
    assert float(L1("xyxy")(matched)) == pytest.approx(0.1)
    assert float(L1("cxcywh")(matched)) == pytest.approx(0.05 + 0.1)


def test_centerness_by_hand():
    # The point (50, 50) in (40, 20, 90, 60): l 10, r 40, t 30, b 10.
    sides = torch.tensor([[10.0, 30.0, 40.0, 10.0]])
    expected = math.sqrt(10 / 40 * 10 / 30)
    assert float(centerness(sides)) == pytest.approx(expected)
    matched = one_pair([0, 0, 1, 1], [40, 20, 90, 60], quality=0.0)
    assert float(Centerness()(matched)) == pytest.approx(math.log(2))


def test_quality_loss_without_a_quality_map():
    matched = one_pair([0, 0, 1, 1], [40, 20, 90, 60])
    bare = Matched(replace(matched.output, quality=None), matched.targets, matched.matches)
    with pytest.raises(ValueError, match="this output has quality None"):
        Centerness()(bare)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_equals_torchvision_on_one_hot_targets(gamma: float):
    matched = scene_matched((5, 0, 3))
    loss = Focal(0.25, gamma)(matched)
    loss.backward()
    gradient = matched.output.logits.grad.clone()
    logits = matched.output.logits.detach().requires_grad_()
    expected = sigmoid_focal_loss(logits, matched.class_targets, 0.25, gamma, "sum") / len(matched.matches)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-4, atol=1e-7)


def test_focal_counts_a_prior_once_however_many_objects_of_a_class_it_answers_for():
    matched = scene_matched((1,))
    m, target = matched.matches, matched.targets[0]
    twice = replace(target, boxes=target.boxes.repeat(2, 1), labels=target.labels.repeat(2),
                    crowd=target.crowd.repeat(2))
    doubled = Matches(m.image.repeat(2), m.prior.repeat(2), torch.cat([m.gt, m.gt + 1]))
    once = Focal()(matched) * len(m)
    again = Focal()(Matched(matched.output, [twice], doubled)) * 2 * len(m)
    torch.testing.assert_close(once, again)


def test_ignored_priors_give_no_classification_loss():
    matched = scene_matched((2, 1))
    ignore = torch.zeros(matched.output.logits.shape[:2], dtype=torch.bool)
    ignore[:, 5] = True
    with_ignore = Matched(matched.output, matched.targets, replace(matched.matches, ignore=ignore))
    Focal()(with_ignore).backward()
    gradient = matched.output.logits.grad
    assert bool((gradient[:, 5] == 0).all())
    assert bool((gradient[:, 6] != 0).all())


def test_the_checker_finds_broken_losses():
    def vector(matched):
        return matched.output.logits.sum(dim=(1, 2))

    def no_gradient(matched):
        return matched.output.logits.detach().sum() ** 2

    def not_a_number_when_empty(matched):
        return matched.boxes.mean()

    for broken, message in ((vector, "scalar"), (no_gradient, "carries gradient"),
                            (not_a_number_when_empty, "finite value")):
        with pytest.raises(ContractError, match=message):
            check_loss(lambda b=broken: b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Focal(alpha=3), "alpha in \\[0, 1\\]"),
        (lambda: IoULoss("zou"), "got 'zou'"),
        (lambda: IoULoss(weight="x"), "got 'x'"),
        (lambda: L1("yx"), "got 'yx'"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
