"""The younger IoU losses by hand, at equal, nested and disjoint boxes; weights of pairs; Wise-IoU's running mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import BalancedL1, IoUKind, IoULoss, WiseIoU, balanced_l1, centerness, iou_loss
from bifocals.structures import distances_from_boxes, paired_iou

KINDS = get_args(IoUKind)
EQUAL = torch.tensor([[10.0, 20, 50, 40]])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_boxes_cost_nothing_and_push_nowhere(kind: IoUKind):
    boxes = EQUAL.clone().requires_grad_()
    loss = iou_loss(boxes, EQUAL, kind)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(0, abs=2e-6)
    assert bool(boxes.grad.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_along_its_gradient(kind: IoUKind):
    """Also for boxes that do not touch, except where a kind has no slope there."""
    target = torch.tensor([[0.0, 0, 40, 20], [0.0, 0, 40, 20]])
    boxes = torch.tensor([[4.0, 3, 30, 26], [60.0, 50, 90, 70]], requires_grad=True)
    rows = iou_loss(boxes, target, kind)
    rows.sum().backward()
    rows = rows.detach()
    assert bool(boxes.grad.isfinite().all())
    moved = iou_loss(boxes.detach() - boxes.grad, target, kind).detach()
    assert float(moved[0]) < float(rows[0])
    blind = {"linear", "square", "log", "focal_eiou", "alpha_iou", "siou_mmdet"}
    if kind not in blind:
        assert float(moved[1]) < float(rows[1])


def test_eiou_by_hand():
    # Centers 5 apart along x, hull 20x10, widths 10 and 20: IoU .5, 25/500 and 100/400.
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 20, 10]])
    assert float(iou_loss(a, b, "eiou")) == pytest.approx(0.5 + 0.05 + 0.25)
    assert float(iou_loss(a, b, "eiou_wise")) == pytest.approx(0.5 + 0.05 + 25 / 400)
    assert float(iou_loss(a, b, "focal_eiou")) == pytest.approx(0.8 * math.sqrt(0.5))
    assert float(iou_loss(a, b, "focal_eiou", gamma=2.0)) == pytest.approx(0.8 * 0.25)


def test_focal_eiou_weighs_without_gradient():
    a, b = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True), torch.tensor([[0.0, 0, 20, 10]])
    (focal,) = torch.autograd.grad(iou_loss(a, b, "focal_eiou").sum(), a)
    (plain,) = torch.autograd.grad(iou_loss(a, b, "eiou").sum(), a)
    torch.testing.assert_close(focal, plain * math.sqrt(0.5))


def test_alpha_by_hand():
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])  # IoU 1/3, hull full
    far = torch.tensor([[10.0, 0, 20, 20]])  # IoU 0, hull 400, union 300
    for alpha in (2.0, 3.0):
        assert float(iou_loss(a, b, "alpha_iou", alpha=alpha)) == pytest.approx(1 - 3**-alpha, abs=1e-5)
        assert float(iou_loss(a, far, "alpha_giou", alpha=alpha)) == pytest.approx(1 + 0.25**alpha, abs=1e-5)
        expected = 1 - 3**-alpha + (25 / 325) ** alpha
        assert float(iou_loss(a, b, "alpha_diou", alpha=alpha)) == pytest.approx(expected, abs=1e-5)


def test_alpha_of_one_is_the_plain_kind():
    matched = scene_matched((5,))
    plain_of = {"alpha_iou": "linear", "alpha_giou": "giou", "alpha_diou": "diou", "alpha_ciou": "ciou"}
    for kind, plain in plain_of.items():
        ours = iou_loss(matched.boxes, matched.target_boxes, kind, alpha=1.0)
        torch.testing.assert_close(ours, iou_loss(matched.boxes, matched.target_boxes, plain), rtol=1e-4, atol=1e-5)


def test_extended_iou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]])
    half, near = torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.0, 0, 10, 9.5]])
    assert float(iou_loss(a, half, "extended_eiou")) == pytest.approx(0.5 - 0.05)
    assert float(iou_loss(a, near, "extended_eiou")) == pytest.approx(0.05**2 / 0.2, rel=1e-4)
    # 5 px apart along x: the "intersection" is -5 * (10 + 10) * ... of the corner's boxes, so below 0.
    apart = torch.tensor([[15.0, 0, 25, 10]])
    assert float(iou_loss(a, apart, "extended_eiou")) > 1


def test_siou_and_the_sign_of_its_distance_cost():
    # Same size, 3 px right and 4 px down: sine .6 and .8, angle cost .96, no shape cost.
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[3.0, 4, 13, 14]])
    iou = 42 / 158
    paper = 2 - math.exp(-1.04 * (3 / 13) ** 2) - math.exp(-1.04 * (4 / 14) ** 2)
    other = 2 - math.exp(1.04 * (3 / 13) ** 2) - math.exp(1.04 * (4 / 14) ** 2)
    assert float(iou_loss(a, b, "siou")) == pytest.approx(1 - iou + paper / 2, rel=1e-5)
    assert float(iou_loss(a, b, "siou_mmdet")) == pytest.approx(1 - iou + other / 2, rel=1e-5)
    assert other < 0 < paper


def test_ciou_of_the_wise_iou_release_is_ciou_but_for_its_eps():
    matched = scene_matched((6,))
    ours = iou_loss(matched.boxes, matched.target_boxes, "ciou_wise")
    torch.testing.assert_close(ours, iou_loss(matched.boxes, matched.target_boxes, "ciou"), rtol=1e-3, atol=1e-4)


def test_pairs_weighed_by_their_own_iou():
    matched = scene_matched((4, 2))
    rows = iou_loss(matched.boxes, matched.target_boxes, "giou").detach()
    iou = paired_iou(matched.boxes, matched.target_boxes).detach().clamp(min=1e-6)
    loss = IoULoss(weight="iou", least=1e-6)(matched)
    torch.testing.assert_close(loss.detach(), (rows * iou).sum() / iou.sum())
    # The weights carry no gradient, and the view still gives one that does.
    loss.backward(retain_graph=True)
    assert matched.iou.requires_grad
    apart = torch.autograd.grad((iou_loss(matched.boxes, matched.target_boxes) * iou).sum() / iou.sum(),
                                matched.output.boxes)[0]
    torch.testing.assert_close(matched.output.boxes.grad, apart)


def test_the_least_divisor_of_weighted_pairs():
    matched = scene_matched((1,))
    rows = iou_loss(matched.boxes, matched.target_boxes).detach()
    weights = centerness(distances_from_boxes(matched.points, matched.target_boxes))
    expected = (rows * weights).sum() / 1000
    torch.testing.assert_close(IoULoss(weight="centerness", least=1000.0)(matched).detach(), expected)


def test_wise_iou_by_hand():
    # IoU 1/3, centers 5 apart, hull's diagonal^2 325; the mean moves by a hundredth before it is used.
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])
    mean = 0.99 + 0.01 * 2 / 3
    beta = 2 / 3 / mean
    loss = WiseIoU()
    assert float(loss.rows(a, b)) == pytest.approx(math.exp(25 / 325) * 2 / 3 * beta / (2.7 * 1.7 ** (beta - 2.7)))
    assert float(loss.mean.value) == pytest.approx(mean)
    loss.eval().rows(a, b)
    assert float(loss.mean.value) == pytest.approx(mean)
    loss.train().rows(a[:0], b[:0])
    assert float(loss.mean.value) == pytest.approx(mean)


def test_balanced_l1_by_hand():
    # b = e^3 - 1; far: 1.5 x + 1.5 / b - .5, near: .5 / b (b x + 1) ln(b x + 1) - .5 x.
    b = math.exp(3) - 1
    near = 0.5 / b * (b * 0.5 + 1) * math.log(b * 0.5 + 1) - 0.25
    values = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    rows = balanced_l1(values, torch.zeros(3))
    torch.testing.assert_close(rows, torch.tensor([0.0, near, 3 + 1.5 / b - 0.5]))
    (slope,) = torch.autograd.grad(rows.sum(), values)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.5 * math.log(b * 0.5 + 1), 1.5]))
    edge = balanced_l1(torch.tensor([1 - 1e-6, 1 + 1e-6]), torch.zeros(2))
    assert float(edge[1] - edge[0]) == pytest.approx(3e-6, abs=1e-6)


@pytest.mark.parametrize("make", [WiseIoU, lambda: WiseIoU(weight="iou"), BalancedL1, lambda: IoULoss(weight="iou")])
def test_contract(make):
    assert "finite without objects, graph kept" in check_loss(make)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iou_loss(EQUAL, EQUAL, "zou"), "got 'zou'"),
        (lambda: IoULoss(alpha=0), "alpha above 0"),
        (lambda: WiseIoU(weight="x"), "WiseIoU expected a weight"),
        (lambda: WiseIoU(delta=0), "delta above 0"),
        (lambda: WiseIoU(momentum=2), "momentum from 0 to 1"),
        (lambda: replace(BalancedL1(), beta=0), "beta above 0"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
