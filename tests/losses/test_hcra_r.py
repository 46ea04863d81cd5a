"""HCRA-R: the numbers of its equations, what it comes down to, its running mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

import bifocals.losses.running
from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import HCRAR, IoULoss, conditioning, iou_loss, rci_reg
from bifocals.losses.hcra_r import RCINorm
from bifocals.losses.pair_weight import PairWeight
from bifocals.losses.running import RunningMean
from bifocals.structures import Matched, Matches
from tests.golden.losses import matched_rows


@pytest.mark.parametrize("make", [
    *(lambda norm=norm: HCRAR(norm=norm) for norm in get_args(RCINorm)),
    *(lambda weight=weight: HCRAR(weight=weight) for weight in get_args(PairWeight)),
])
def test_contract(make):
    assert "its state dict holds its state" in check_loss(make)


def values(function, *pairs: tuple[float, ...], **options) -> list[float]:
    columns = [torch.tensor(c) for c in zip(*pairs, strict=True)]
    return function(*columns, **options).tolist()


def test_rci_of_regression_by_hand():
    got = values(rci_reg, (0.9, 0.3), (0.2, 0.8), (0.4, 0.5))
    assert got == pytest.approx([1.815308, 0.658003, 1.0], abs=1e-6)


def test_rci_of_regression_over_the_unit_square():
    score, iou = torch.meshgrid(*[torch.linspace(0, 1, 81, dtype=torch.float64)] * 2, indexing="ij")
    for alpha in (0.0, 0.1, 0.2):
        value = rci_reg(score, iou, alpha)
        too_high = score - iou + alpha >= 0
        assert bool((value > 0).all())
        assert bool((value[too_high] >= 1 - 1e-12).all())
        assert bool((value[~too_high] <= 1 + 1e-12).all())
        looser = rci_reg(score, iou, alpha, ep=0.01)
        assert bool((looser <= value)[too_high].all())
        assert bool((looser >= value)[~too_high].all())
    square = rci_reg(score, iou)
    assert float(square.min()) == pytest.approx(0.1988, abs=1e-4)
    assert float(square.max()) == pytest.approx(1211, abs=1)


def test_a_negative_alpha_never_turns_the_loss_around():
    """Eq. 8 itself would be -.34 at a fresh score of .01 and IoU .5 with the alpha of Table 3."""
    s, i, a, ep = 0.01, 0.5, -0.1, 0.001
    assert (2 * (s + a) * i + ep) / ((s + a) ** 2 + i**2 + ep) == pytest.approx(-0.34, abs=0.01)
    score, iou = torch.meshgrid(torch.linspace(0, 1, 41), torch.linspace(0, 1, 41), indexing="ij")
    assert bool((rci_reg(score, iou, alpha=-0.1) > 0).all())


def test_conditioning_by_hand():
    same = torch.tensor([[0.0, 0, 10, 10]])
    assert values(lambda i: conditioning(i, same, same), (1.0,)) == pytest.approx([math.exp(-1 / 1.2)])
    assert values(lambda i: conditioning(i, same, same), (0.0,)) == [0]
    moved = torch.tensor([[5.0, 0, 15, 10]])
    expected = math.exp(-1 / 9 / 1.2) / 3 * math.exp(25 / 325)
    assert values(lambda i: conditioning(i, same, moved), (1 / 3,)) == pytest.approx([expected])
    fine = torch.linspace(0, 1, 1001)
    for gamma in (0.8, 1.2, 1.5):
        curve = conditioning(fine, same, same, gamma)
        assert float(fine[curve.argmax()]) == pytest.approx(math.sqrt(gamma / 2), abs=2e-3)


def test_the_offset_does_not_depend_on_the_size_of_the_image():
    small, moved = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]])
    iou = torch.tensor([1 / 3])
    torch.testing.assert_close(conditioning(iou, small, moved), conditioning(iou, 64 * small, 64 * moved))


def value_and_gradient(loss, matched: Matched) -> tuple[Tensor, Tensor]:
    total = loss(matched)
    return total.detach(), torch.autograd.grad(total, matched.output.boxes)[0]


def assert_same(ours, other, matched: Matched) -> None:
    apart = Matched(matched.output, matched.targets, matched.matches)
    for a, b in zip(value_and_gradient(ours, matched), value_and_gradient(other, apart), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_without_its_factors_it_is_giou():
    for weight in get_args(PairWeight):
        ours = HCRAR(gamma=math.inf, rci=False, factors=("overlap",), weight=weight, least=1e-6)
        assert_same(ours, IoULoss("giou", weight), scene_matched((5, 0, 3)))


@pytest.mark.parametrize("norm", get_args(RCINorm))
def test_what_r_is(norm: RCINorm):
    matched = scene_matched((5, 2))
    iou, score = matched.iou.detach(), matched.probability.detach()
    rci = rci_reg(score, iou)
    mean = 0.99 + 0.01 * rci.mean()
    r = {"ratio": rci / mean, "blend": 0.99 + 0.01 * rci, "scalar": mean.expand_as(rci), "none": rci}[norm]
    rows = iou_loss(matched.boxes, matched.target_boxes).detach()
    cf = conditioning(iou, matched.boxes.detach(), matched.target_boxes)
    loss = HCRAR(norm=norm)
    torch.testing.assert_close(loss(matched).detach(), (r * cf * rows).sum() / len(rows), rtol=1e-5, atol=1e-7)
    assert float(loss.mean.value) == pytest.approx(1.0 if norm == "none" else float(mean))


def test_the_running_mean_stands_still_in_evaluation_and_without_objects():
    loss = HCRAR()
    loss(scene_matched((0, 0)))
    assert float(loss.mean.value) == 1
    loss(scene_matched((5, 2)))
    state = float(loss.mean.value)
    assert state != 1
    loss.eval()(scene_matched((5, 2), seed=9))
    assert float(loss.mean.value) == state


def test_the_running_mean_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch):
    """The other rank has two values whose sum is 6; an empty rank moves its mean by them too."""
    monkeypatch.setattr(bifocals.losses.running, "sum_over_ranks", lambda s: s + torch.tensor([6.0, 2.0]))
    full, empty = RunningMean(0.5), RunningMean(0.5)
    full.update(torch.tensor([1.0]))
    empty.update(torch.zeros(0))
    assert float(full.value) == pytest.approx(0.5 + 0.5 * 7 / 3)
    assert float(empty.value) == pytest.approx(0.5 + 0.5 * 3)


def test_the_mean_of_r_goes_to_one():
    loss, matched = HCRAR(momentum=0.1), scene_matched((5, 2))
    rci = rci_reg(matched.probability.detach(), matched.iou.detach())
    for _ in range(100):
        loss(matched)
    assert float((rci / loss.mean.value).mean()) == pytest.approx(1, abs=1e-3)


def test_an_outlier_is_bounded():
    # A sure score on a box beside its object: 1211 in Eq. 8, and it moves the mean of all.
    matched = matched_rows(torch.tensor([[9.0, 0.0]]), torch.tensor([0]), quality=torch.tensor([0.0]))
    loud, quiet = HCRAR(), HCRAR(rci_max=10.0)
    loud(matched)
    quiet(matched)
    assert float(loud.mean.value) > 10
    assert float(quiet.mean.value) == pytest.approx(1.09)


def test_a_pair_that_does_not_overlap_learns_nothing_unless_given_a_floor():
    matched = scene_matched((1,))
    beside = (matched.target_boxes + 500).detach().requires_grad_()
    boxes = matched.output.boxes.detach().index_put((matched.matches.image, matched.matches.prior), beside)
    view = Matched(replace(matched.output, boxes=boxes), matched.targets, matched.matches)
    (still,) = torch.autograd.grad(HCRAR()(view), beside, retain_graph=True)
    assert not still.any()
    (pulled,) = torch.autograd.grad(HCRAR(iou_floor=0.1)(view), beside)
    assert bool((pulled[:, 0] > 0).all())


def test_no_weight_sends_gradient_into_the_scores():
    matched = scene_matched((4,))
    HCRAR()(matched).backward()
    assert matched.output.logits.grad is None


def test_the_order_of_pairs_does_not_matter():
    matched = scene_matched((5, 3))
    m, order = matched.matches, torch.randperm(len(matched.matches), generator=torch.Generator().manual_seed(0))
    other = Matched(matched.output, matched.targets, Matches(m.image[order], m.prior[order], m.gt[order]))
    torch.testing.assert_close(HCRAR()(matched), HCRAR()(other))


def test_resumed_is_uninterrupted():
    views = [scene_matched((3, 1), seed=s) for s in range(4)]
    loss, first, second = HCRAR(), HCRAR(), HCRAR()
    expected = [float(loss(v).detach()) for v in views]
    for view in views[:2]:
        first(view)
    second.load_state_dict(first.state_dict())
    assert [float(second(v).detach()) for v in views[2:]] == expected[2:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HCRAR(norm="x"), "HCRAR knows norm"),
        (lambda: HCRAR(factors=("x",)), "factors"),
        (lambda: HCRAR(gamma=0), "gamma and ep above 0"),
        (lambda: HCRAR(weight="x"), "HCRAR expected a weight"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
