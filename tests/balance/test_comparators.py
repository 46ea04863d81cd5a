"""DWA, DTP and Guided Loss: their formulas, their guards, and the failures of ALWA's Table 4 at their step."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bifocals.balance import DTP, DWA, Guided
from bifocals.check import check_balancer
from bifocals.check.scene import scene_matched
from bifocals.structures import Matched
from tests.balance.streams import noisy, raw, trace


def first_failure(balancer, cls: list[float], box: list[float]) -> int | None:
    """The first step, from 0, whose weighted losses are not finite: there the engine stops the run."""
    for step, (c, r) in enumerate(zip(cls, box, strict=True)):
        if not torch.stack(list(balancer(raw(c, r)).values())).isfinite().all():
            return step
        balancer.observe(raw(c, r))
    return None


# DWA


def test_dwa_by_hand():
    """Means of windows: cls 4, 2, 1 and box 1, 1, .5: ratios .5 and 1, then .5 and .5."""
    found = trace(DWA(2), [5.0, 3.0, 2.0, 2.0, 1.0, 1.0, 9.0], [0.5, 1.5, 1.0, 1.0, 0.5, 0.5, 9.0])
    assert found[:4] == [(1.0, 1.0)] * 4
    cls = 2 * math.exp(0.25) / (math.exp(0.25) + math.exp(0.5))
    assert found[4] == found[5] == pytest.approx((cls, 2 - cls))
    assert found[6] == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(("precision", "least"), [("float64", 1419.6), ("float32", 177.4)])
def test_dwa_overflows_where_a_ratio_is_too_large_to_be_exponentiated(precision, least):
    """exp(w / T) with T = 2: the box loss rises `least` times from step 3 to 4, so step 5 has no weights."""
    for factor, expected in ((0.999, None), (1.001, 5)):
        box = [0.01, 0.01, 0.01, 0.01, 0.01 * factor * least, 0.01, 0.01]
        assert first_failure(DWA(faithful=True, precision=precision), [1.0] * 7, box) == expected
        assert first_failure(DWA(1), [1.0] * 7, box) is None
        assert first_failure(DWA(), [1.0] * 7, box) is None


def test_dwa_overflows_after_a_batch_without_positives():
    """Faster R-CNN and Libra R-CNN: the box loss of an RPN is exactly 0 there, and the ratio after it infinite."""
    box = [0.02, 0.02, 0.0, 0.02, 0.02]
    assert first_failure(DWA(faithful=True), [1.0] * 5, box) == 4
    assert first_failure(DWA(1), [1.0] * 5, box) is None
    # RetinaNet has a positive for each object: ratios stay small.
    assert first_failure(DWA(faithful=True), *noisy(0.3, 200, noise=0.5)) is None


def test_the_weights_of_the_stable_dwa_are_bounded():
    found = trace(DWA(1), [1.0] * 5, [1e-9, 1e-9, 1e-9, 10.0, 10.0])
    bound = 2 / (1 + math.exp((1 - 10) / 2))
    assert found[4] == pytest.approx((2 - bound, bound))
    assert trace(DWA(1), [0.0] * 4, [0.0] * 4)[3] == pytest.approx((1.0, 1.0))


def test_dwa_in_the_middle_of_a_window_loads():
    cls, box = noisy(0.3, 30)
    whole, first, second = DWA(7), DWA(7), DWA(7)
    expected = trace(whole, cls, box)
    begun = trace(first, cls[:17], box[:17])
    told = first.drain()
    second.load_state_dict(first.state_dict())
    assert begun + trace(second, cls[17:], box[17:]) == expected
    assert told + second.drain() == whole.drain()
    assert whole.scheduled() == pytest.approx({"weight_cls": expected[-1][0], "weight_reg": expected[-1][1]})


# Guided Loss


def test_guided_gives_the_class_term_the_value_of_the_box_term():
    c, r = torch.tensor(3.0, requires_grad=True), torch.tensor(0.6, requires_grad=True)
    weighted = Guided()({"cls": c, "box": r})
    assert [float(weighted[n].detach()) for n in ("cls", "box")] == pytest.approx([0.6, 0.6])
    sum(weighted.values()).backward()
    assert float(c.grad) == pytest.approx(0.6 / 3)  # of L_reg ln L_cls, nothing through the ratio
    assert float(r.grad) == 1.0


def test_guided_without_positives():
    """The weight of a step without any is a mean over none. Guarded, it is that of the last good step."""
    cls, box = [1.0, 1.0, 1.0, 1.0], [0.3, 0.2, 0.0, 0.3]
    assert first_failure(Guided(faithful=True), cls, box) == 2
    guarded = Guided()
    assert first_failure(guarded, cls, box) is None
    used = []
    for c, r in zip(cls, box, strict=True):
        used.append(float(guarded(raw(c, r))["cls"]))
        guarded.observe(raw(c, r))
    assert used == pytest.approx([0.3, 0.2, 0.2, 0.3])
    assert float(Guided()(raw(1.0, 0.0))["cls"]) == 1.0


def test_guided_with_a_class_loss_that_vanishes():
    """Libra's sampler may draw six anchors of which all are right: the ratio has no bound, and ends at 1 / 0."""
    cls, box = [0.5, 1e-3, 1e-38, 0.0], [0.3, 0.3, 0.3, 0.3]
    assert first_failure(Guided(faithful=True), cls, box) == 3
    weighted = Guided(faithful=True)
    x = torch.tensor(1e-3, requires_grad=True)
    weighted({"cls": x, "box": torch.tensor(0.3)})["cls"].backward()
    assert float(x.grad) == pytest.approx(300)
    y = torch.tensor(1e-3, requires_grad=True)
    Guided()({"cls": y, "box": torch.tensor(0.3)})["cls"].backward()
    assert float(y.grad) == pytest.approx(10)
    assert first_failure(Guided(), cls, box) is None


def test_the_ratio_of_one_stage_detectors_freezes():
    """Mean of the other losses over the class loss, until step `settle`."""
    balancer = Guided("c", settle=3)
    losses = [(1.0, 0.4, 0.2), (1.0, 0.6, 0.2), (1.0, 0.8, 0.4), (1.0, 0.2, 0.2), (2.0, 0.2, 0.2)]
    used = []
    for c, r, q in losses:
        step = {"cls": torch.tensor(c), "box": torch.tensor(r), "quality": torch.tensor(q)}
        weighted = balancer(step)
        used.append(float(weighted["cls"]) / c)
        assert float(weighted["quality"]) == pytest.approx(q) and float(weighted["box"]) == pytest.approx(r)
        balancer.observe(step)
    assert used == pytest.approx([0.3, 0.4, 0.6, 0.6, 0.6])
    assert balancer.scheduled() == pytest.approx({"ratio": 0.6})
    other = Guided("c", settle=3)
    other.load_state_dict(balancer.state_dict())
    assert float(other(raw(1.0, 0.1))["cls"]) == pytest.approx(0.6)


# DTP


def matched_with(probability: float, shift: float = 0.0) -> Matched:
    """A scene whose positives give their class `probability`, with predicted boxes `shift` pixels off the objects."""
    matched = scene_matched((4, 2))
    logits = torch.full_like(matched.output.logits, -9.0)
    where = matched.matches.image, matched.matches.prior, matched.target_labels
    logits[where] = math.log(probability / (1 - probability))
    boxes = matched.output.boxes.detach().clone()
    boxes[where[:2]] = matched.target_boxes + shift
    return Matched(replace(matched.output, logits=logits, boxes=boxes), matched.targets, matched.matches)


def test_dtp_by_hand():
    """FL(k; 1) = -(1 - k) ln k: k .5 has .3466; the moving average goes a tenth of the way."""
    balancer = DTP(decay=0.1, focus=(1.0, 2.0))
    assert trace_of(balancer) == (1.0, 1.0)
    balancer.watch(matched_with(0.5))
    balancer.observe(raw(1.0, 1.0))
    iou = float(matched_with(0.5).iou.mean())
    kpis = [balancer.scheduled()[n] for n in ("kpi_cls", "kpi_reg")]
    assert kpis == pytest.approx([0.5, iou]) and 0.5 < iou < 0.99
    assert trace_of(balancer) == pytest.approx((0.34657, (1 - iou) ** 2 * -math.log(iou)), rel=1e-4)
    balancer.watch(matched_with(0.9))
    balancer.observe(raw(1.0, 1.0))
    k = 0.1 * 0.9 + 0.9 * 0.5
    assert balancer.scheduled()["kpi_cls"] == pytest.approx(k, rel=1e-5)
    assert trace_of(balancer)[0] == pytest.approx(-(1 - k) * math.log(k), rel=1e-5)
    assert trace_of(DTP(focus=(0.0, 0.0))) == (1.0, 1.0)


def trace_of(balancer) -> tuple[float, float]:
    weighted = balancer(raw(1.0, 1.0))
    return float(weighted["cls"]), float(weighted["box"])


def test_dtp_averages_positives_over_micro_batches_and_not_batches():
    once, twice = DTP(), DTP()
    for balancer in (once, twice):
        balancer.watch(matched_with(0.2))
    twice.watch(matched_with(0.8))
    for balancer in (once, twice):
        balancer.observe(raw(1.0, 1.0))
    assert once.scheduled()["kpi_cls"] == pytest.approx(0.2, rel=1e-5)
    assert twice.scheduled()["kpi_cls"] == pytest.approx(0.5, rel=1e-5)
    before = twice.scheduled()
    twice.watch(scene_matched((0, 0)))  # nobody to judge
    twice.observe(raw(1.0, 0.0))
    assert twice.scheduled() == before


def test_dtp_of_a_sampling_head_counts_what_is_decided_right():
    matched = matched_with(0.9)
    all_right = DTP("accuracy")
    all_right.watch(matched)
    all_right.observe(raw(1.0, 1.0))
    assert all_right.scheduled()["kpi_cls"] == 1.0
    missed = DTP("accuracy")
    missed.watch(matched_with(0.4))
    missed.observe(raw(1.0, 1.0))
    priors = matched.output.logits.shape[0] * matched.output.logits.shape[1]
    pairs = len(torch.unique(torch.stack([matched.matches.image, matched.matches.prior]), dim=1)[0])
    assert missed.scheduled()["kpi_cls"] == pytest.approx(1 - pairs / priors)


def test_dtp_of_a_roi_head_takes_the_largest_logit():
    """Two of three regions are decided right: an object of class 1, one of class 0 called background, background."""
    logits = torch.tensor([[[0.0, 3.0, 1.0], [0.0, -1.0, 2.0], [-1.0, -2.0, -0.5]]])
    matched = SimpleNamespace(
        output=SimpleNamespace(logits=logits), target_labels=torch.tensor([1, 0]), iou=torch.tensor([0.5, 0.7]),
        matches=SimpleNamespace(image=torch.tensor([0, 0]), prior=torch.tensor([0, 1])), counted=None,
    )
    balancer = DTP("softmax")
    balancer.watch(matched)
    balancer.observe(raw(1.0, 1.0))
    told = balancer.scheduled()
    assert [told["kpi_cls"], told["kpi_reg"]] == pytest.approx([2 / 3, 0.6])


def test_dtp_explodes_at_a_performance_of_0_where_faithful():
    far = matched_with(0.5, shift=1e4)
    for faithful in (True, False):
        balancer = DTP(faithful=faithful, focus=(1.0, 1.0))
        balancer.watch(far)
        balancer.observe(raw(1.0, 1.0))
        assert math.isinf(trace_of(balancer)[1]) == faithful
    assert trace_of(balancer)[1] == pytest.approx(-0.99 * math.log(0.01), rel=1e-5)
    normalized = DTP(normalize=True)
    normalized.watch(far)
    normalized.observe(raw(1.0, 1.0))
    assert sum(trace_of(normalized)) == pytest.approx(2)


def test_dtp_needs_a_branch_that_shows_it_predictions():
    with pytest.raises(ValueError, match=r"DTP expected its branch to show it the matched view by Branch\.watch"):
        DTP().observe(raw(1.0, 1.0))


# All


@pytest.mark.parametrize("make", [
    lambda: DWA(2), lambda: DWA(faithful=True), Guided, lambda: Guided("c", settle=3), DTP,
])  # fmt: skip
def test_the_contract_of_a_balancer(make):
    assert "its state dict holds its state" in check_balancer(make)


@pytest.mark.parametrize("make", [lambda: DWA(1), Guided, DTP])
def test_nothing_changes_in_eval_mode(make):
    balancer = make().eval()
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    for _ in range(3):
        if isinstance(balancer, DTP):
            balancer.watch(matched_with(0.3))
        balancer.observe(raw(2.0, 0.3))
    after = balancer.state_dict()
    assert all(torch.equal(torch.nan_to_num(before[n]), torch.nan_to_num(after[n])) for n in before)


def test_a_loss_that_is_not_finite_is_not_recorded():
    for balancer in (DWA(2), DWA(faithful=True), Guided(), Guided("c")):
        trace(balancer, [1.0, 1.0, 1.0, 1.0], [0.2, 0.3, 0.2, 0.2])
        before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
        balancer.observe(raw(float("nan"), 0.2))
        after = balancer.state_dict()
        assert [n for n in before if not torch.equal(before[n], after[n])] in ([], ["steps"])


@pytest.mark.parametrize(("make", "expected"), [
    (lambda: DWA(0), "DWA expected a window"), (lambda: DWA(temperature=0), "DWA expected a positive temperature"),
    (lambda: DWA(precision="float16"), "DWA knows the precisions"), (lambda: Guided("b"), "Guided knows the variants"),
    (lambda: Guided(settle=0), "Guided expected settle"), (lambda: DTP("iou"), "DTP knows kpi"),
    (lambda: DTP(decay=0), "DTP expected decay"),
])  # fmt: skip
def test_values_that_cannot_be_meant(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()
