"""HCRA-C: the numbers of its equations, what it comes down to, what it teaches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from bifocals.assign import FCOS
from bifocals.check import check_loss
from bifocals.check.scene import scene_matched, scene_priors
from bifocals.losses import GHM, HCRAC, HCRAR, negative_omega, rci_cls
from bifocals.losses.hcra_c import NegativeIoU, NegativeMode, RCIMode
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Matched, Matches, pairwise_iou
from tests.golden.losses import matched_rows

MODES = get_args(RCIMode)
NEGATIVES = get_args(NegativeMode)


@pytest.mark.parametrize("make", [
    *(lambda mode=mode: HCRAC(rci=mode) for mode in MODES),
    *(lambda mode=mode: HCRAC(negative=mode) for mode in NEGATIVES),
    *(lambda source=source: HCRAC(negative_iou=source) for source in get_args(NegativeIoU)),
    lambda: HCRAC(normalizer="positives", on_positive_anchors=True),
])
def test_contract(make):
    assert "its state dict holds its state" in check_loss(make)


def values(function, *pairs: tuple[float, ...], **options) -> list[float]:
    columns = [torch.tensor(c) for c in zip(*pairs, strict=True)]
    return function(*columns, **options).tolist()


# Eq. 5


def test_rci_of_classification_by_hand():
    got = values(rci_cls, (0.2, 0.7), (0.65, 0.7), (0.71, 0.7))
    assert got == pytest.approx([0.924142, 0.562177, 0.0], abs=1e-6)
    assert values(rci_cls, (0.2, 0.7), (0.9, 0.7), mode="printed") == pytest.approx([0, 1 / (1 + math.exp(-1))])
    assert values(rci_cls, (0.2, 0.7), (0.9, 0.7), mode="swapped") == pytest.approx([1 - 0.924142, 0], abs=1e-6)
    assert values(rci_cls, (0.2, 0.7), (0.9, 0.7), mode="smooth") == pytest.approx([0.924142, 0.268941], abs=1e-6)
    assert values(rci_cls, (0.2, 0.7), (0.9, 0.7), mode="tanh") == pytest.approx([math.tanh(1.25), 0], abs=1e-6)
    assert values(rci_cls, (0.2, 0.7), (0.9, 0.7), mode="none") == [1, 1]
    # A tie belongs to the side of scores that are too low.
    tie = [values(rci_cls, (0.5, 0.5), mode=mode)[0] for mode in MODES]
    assert dict(zip(MODES, tie, strict=True)) == {"intended": 0.5, "printed": 0, "swapped": 0.5, "smooth": 0.5,
                                                  "tanh": 0, "none": 1}
    # alpha moves the residual, not the side.
    assert values(rci_cls, (0.2, 0.7), alpha=0.1) == pytest.approx([1 / (1 + math.exp(-2))])


def test_the_default_does_what_the_text_asks():
    score, iou = torch.meshgrid(torch.linspace(0, 1, 41), torch.linspace(0, 1, 41), indexing="ij")
    weight = rci_cls(score, iou)
    assert bool((weight.diff(dim=0) <= 1e-7).all())  # falls as the score rises
    assert bool((weight.diff(dim=1) >= -1e-7).all())  # grows with the IoU
    active = score <= iou
    assert bool((weight[active] >= 0.5).all())
    assert bool((weight[active] < 1).all())
    assert not weight[~active].any()
    prints = rci_cls(score, iou, mode="printed")
    assert not bool((prints.diff(dim=0) <= 1e-7).all())


# Eq. 3


def test_omega_of_the_background_as_printed():
    iou = torch.linspace(0, 1, 3001, dtype=torch.float64)
    omega = negative_omega(iou)
    assert negative_omega(torch.tensor([0.0, 0.7, 1.0])).tolist() == pytest.approx([1, 1, 0.91])
    low = iou <= 0.7
    least = int(omega[low].argmin())
    assert float(omega[low][least]) == pytest.approx(1 - 4 * 0.7**3 / 27, abs=1e-7)  # .949185
    assert float(iou[least]) == pytest.approx(0.7 / 3, abs=1e-3)


def test_the_other_readings_of_omega():
    at = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    assert negative_omega(at, mode="exp").tolist() == pytest.approx([1, 0.564, 0.175, 0.027, 0, 0.004, 0], abs=6e-4)
    product = [0.490, 0.324, 0.112, 0.020, 0, 0.004, 0]
    assert negative_omega(at, mode="product").tolist() == pytest.approx(product, abs=6e-4)
    assert negative_omega(at, mode="none").tolist() == [1] * 7
    fine = torch.linspace(0, 1, 1001, dtype=torch.float64)
    rise = {mode: float(negative_omega(fine, mode=mode).diff().clamp(min=0).sum()) for mode in NEGATIVES}
    assert rise["exp"] == pytest.approx(0.0042, abs=2e-4)
    assert rise["printed"] == pytest.approx(0.051, abs=1e-3)


# What it comes down to


def matched_with_anchors() -> Matched:
    matched = scene_matched((5, 0, 3))
    return Matched(replace(matched.output, priors=scene_priors()), matched.targets, matched.matches)


def value_and_gradient(loss, matched: Matched) -> tuple[Tensor, Tensor]:
    total = loss(matched)
    return total.detach(), torch.autograd.grad(total, matched.output.logits)[0]


def assert_same(ours, other, matched: Matched) -> None:
    apart = Matched(matched.output, matched.targets, matched.matches)
    for a, b in zip(value_and_gradient(ours, matched), value_and_gradient(other, apart), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_without_its_factors_it_is_ghm():
    bare = {"rci": "none", "positive": "none", "negative": "none"}
    for momentum in (0.0, 0.75):
        assert_same(HCRAC(bins=20, momentum=momentum, **bare), GHM(20, momentum), scene_matched((5, 0, 3)))


def test_with_one_bin_too_it_is_the_mean_cross_entropy():
    matched = scene_matched((5, 0, 3))
    loss = HCRAC(bins=1, momentum=0.0, rci="none", positive="none", negative="none")(matched)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(matched.output.logits, matched.class_targets)
    torch.testing.assert_close(loss, entropy)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("negative", NEGATIVES)
def test_equal_to_the_equations_element_by_element(mode: RCIMode, negative: NegativeMode):
    matched = matched_with_anchors()
    got = value_and_gradient(HCRAC(momentum=0.0, rci=mode, negative=negative), matched)

    logits, targets = matched.output.logits.detach().requires_grad_(), matched.class_targets
    p = logits.detach().sigmoid()
    bins = ((p - targets).abs() * 20).long().clamp(max=19)
    count = torch.bincount(bins.flatten(), minlength=20)
    beta = targets.numel() / count[bins] / (count > 0).sum()
    omega = negative_omega(matched.best_iou, mode=negative)[..., None].repeat(1, 1, 3)
    m = matched.matches
    omega[m.image, m.prior] = 1  # the other classes of priors that answer for an object
    iou = torch.zeros_like(targets)
    iou[m.image, m.prior, matched.target_labels] = matched.iou.detach()
    weight = torch.where(targets > 0, iou * rci_cls(p, iou, mode=mode), omega) * beta
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = (weight * entropy).sum() / targets.numel()
    torch.testing.assert_close(got[0], expected.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got[1], torch.autograd.grad(expected, logits)[0], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(got[1], weight * (p - targets) / targets.numel(), rtol=1e-4, atol=1e-8)


def test_no_weight_sends_gradient_into_the_boxes():
    matched = scene_matched((4,))
    HCRAC()(matched).backward()
    assert matched.output.boxes.grad is None


def test_wrong_classes_of_a_well_placed_box_are_unlearned_unless_told_otherwise():
    matched = matched_rows(torch.zeros(1, 3), torch.tensor([0]), quality=torch.tensor([0.7]))
    for everywhere, factor in ((False, 1.0), (True, 0.0)):
        logits = torch.zeros(1, 1, 3, requires_grad=True)
        view = Matched(replace(matched.output, logits=logits), matched.targets, matched.matches)
        HCRAC(negative="exp", on_positive_anchors=everywhere)(view).backward()
        assert bool(logits.grad[0, 0, 1] > 0) == bool(factor)


def test_the_iou_of_the_background():
    matched = matched_with_anchors()
    background = {source: HCRAC(negative="product", negative_iou=source)._background(matched)
                  for source in get_args(NegativeIoU)}
    free = torch.ones(matched.output.logits.shape[:2], dtype=torch.bool)
    free[matched.matches.image, matched.matches.prior] = False
    torch.testing.assert_close(background["zero"][free], torch.full_like(background["zero"][free], 0.49))
    torch.testing.assert_close(background["pred"][free], negative_omega(matched.best_iou, mode="product")[free])
    anchors = matched.output.priors.boxes
    for image, target in enumerate(matched.targets):
        best = torch.cat([pairwise_iou(anchors, target.boxes), torch.zeros(len(anchors), 1)], dim=1).amax(1)
        torch.testing.assert_close(background["anchor"][image][free[image]],
                                   negative_omega(best, mode="product")[free[image]])
    points = replace(matched.output, priors=replace(matched.output.priors, boxes=None))
    with pytest.raises(ValueError, match="expected priors with anchors"):
        HCRAC(negative_iou="anchor")(Matched(points, matched.targets, matched.matches))


def test_divided_by_positives():
    matched = scene_matched((5, 2))
    ratio = matched.output.logits.numel() / len(matched.matches)
    torch.testing.assert_close(HCRAC(normalizer="positives")(matched), HCRAC()(matched) * ratio)


# What it teaches


def taught_score(mode: RCIMode, iou: float, steps: int = 60) -> float:
    """The score of an object whose box keeps its IoU, from a fresh network's .01, after steepest descent."""
    logits = torch.full((12, 2), -math.log(99.0), requires_grad=True)
    labels = torch.full((12,), 2)
    labels[0] = 1
    quality = torch.zeros(12)
    quality[0] = iou
    loss = HCRAC(rci=mode)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(matched_rows(logits, labels, quality=quality)), logits)
        with torch.no_grad():
            logits -= 4 * gradient
    return float(logits.detach().sigmoid()[0, 1])


def test_as_printed_no_object_is_ever_learned():
    """Eq. 5 gives weight 0 wherever p <= IoU, and a fresh network's scores lie below any IoU."""
    logits = torch.full((3, 2), -math.log(99.0), requires_grad=True)
    matched = matched_rows(logits, torch.tensor([0, 1, 2]), quality=torch.tensor([0.3, 0.9, 0.0]))
    HCRAC(rci="printed")(matched).backward()
    assert logits.grad[0, 0] == 0
    assert logits.grad[1, 1] == 0
    logits.grad = None
    HCRAC()(matched_rows(logits, torch.tensor([0, 1, 2]), quality=torch.tensor([0.3, 0.9, 0.0]))).backward()
    assert logits.grad[0, 0] < 0
    assert logits.grad[1, 1] < logits.grad[0, 0]  # the better box is learned faster
    assert taught_score("printed", 0.7, steps=5) == pytest.approx(0.01)


def test_by_default_a_score_climbs_to_the_iou_and_stops():
    for iou in (0.3, 0.7):
        assert taught_score("intended", iou) == pytest.approx(iou, abs=0.06)
    assert taught_score("none", 0.3) > 0.9


def test_the_order_of_pairs_does_not_matter():
    matched = scene_matched((5, 3))
    m, order = matched.matches, torch.randperm(len(matched.matches), generator=torch.Generator().manual_seed(0))
    other = Matched(matched.output, matched.targets, Matches(m.image[order], m.prior[order], m.gt[order]))
    torch.testing.assert_close(HCRAC()(matched), HCRAC()(other))


def test_the_state_is_part_of_the_objective():
    objective = Objective({"one2many": DenseBranch(FCOS(), {"cls": HCRAC(), "box": HCRAR()})})
    stateful = "branches.one2many.stateful"
    assert set(objective.state_dict()) == {f"{stateful}.cls.density.counts", f"{stateful}.box.mean.value"}
    assert not objective.eval().branches["one2many"].losses["cls"].training


def test_resumed_is_uninterrupted():
    views = [scene_matched((3, 1), seed=s) for s in range(4)]
    loss, first, second = HCRAC(), HCRAC(), HCRAC()
    expected = [float(loss(v).detach()) for v in views]
    for view in views[:2]:
        first(view)
    second.load_state_dict(first.state_dict())
    assert [float(second(v).detach()) for v in views[2:]] == expected[2:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HCRAC(rci="x"), "HCRAC knows rci .* got 'x'"),
        (lambda: HCRAC(negative="x"), "HCRAC knows negative"),
        (lambda: HCRAC(mu=2), "mu in \\[0, 1\\]"),
        (lambda: HCRAC(normalizer="x"), "HCRAC knows normalizer"),
        (lambda: rci_cls(torch.ones(1), torch.ones(1), mode="x"), "rci_cls knows"),
        (lambda: negative_omega(torch.ones(1), mode="x"), "negative_omega knows"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
