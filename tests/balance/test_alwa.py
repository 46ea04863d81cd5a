"""ALWA: the properties that its sheet asks for, each with its number, on losses without data."""

from __future__ import annotations

import pytest
import torch

from bifocals.balance import ALWA, Fixed, Sides
from bifocals.check import check_balancer
from tests.balance.streams import alphas, noisy, raw, trace

RULES = ("paper", "release", "raw")
STATS = ("mean+std", "std")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stat", STATS)
def test_1_alpha_is_above_0_and_at_most_1(rule, stat):
    draw = torch.Generator().manual_seed(0)
    cls, box = (10 ** (4 * torch.rand(2, 120, generator=draw) - 3)).tolist()
    found = alphas(ALWA(stat, rule, 5), cls, box)
    assert all(0 < alpha <= 1 for alpha in found)
    assert len(set(found)) > 1


@pytest.mark.parametrize("stat", STATS)
def test_2_lambda0_leaves_alpha_alone_but_for_the_release(stat):
    stream = noisy(0.3, 60)
    for rule in ("paper", "raw"):
        one, other = (trace(ALWA(stat, rule, 10, lambda0=x), *stream) for x in (1.0, 1.6))
        assert [c / 1.6 for c, _ in other] == pytest.approx([c for c, _ in one], rel=1e-6)
        assert [r for _, r in other] == pytest.approx([1.6] * 60)
    one, other = (trace(ALWA(stat, "release", 10, lambda0=x), *stream) for x in (1.0, 1.6))
    assert [w for pair in other[:10] for w in pair] == pytest.approx([1.6] * 20)
    # r / c has lambda0 above and below the line in the first window, and above it alone in the second.
    assert other[10][0] == pytest.approx(one[10][0], rel=1e-6)
    unlike = [c / 1.6 != pytest.approx(d, rel=1e-3) for (c, _), (d, _) in zip(other, one, strict=True)]
    assert any(unlike[20:])


@pytest.mark.parametrize("rule", RULES)
def test_3_scales_of_the_losses(rule):
    cls, box = noisy(0.2, 40)
    first = alphas(ALWA(rule=rule, window=10, first="window"), cls, box)
    both = alphas(ALWA(rule=rule, window=10, first="window"), [8 * c for c in cls], [8 * r for r in box])
    assert both == first
    larger = alphas(ALWA(rule=rule, window=10, first="window"), [4 * c for c in cls], box)
    assert larger[10] == pytest.approx(first[10] / 4, rel=1e-6)


def test_4_a_constant_added_to_the_class_loss():
    cls, box = noisy(0.2, 40)
    more = [c + 3 for c in cls]
    one, other = (alphas(ALWA("std", "raw", 10), c, box) for c in (cls, more))
    assert other == pytest.approx(one, rel=1e-4)
    one, other = (alphas(ALWA("mean+std", "raw", 10), c, box) for c in (cls, more))
    assert other[10] < 0.5 * one[10]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("c", "r"), [(0.5, 0.1), (1.27, 0.17), (0.81, 0.24)])
def test_5_losses_that_do_not_change(rule, c, r):
    """Under the rules that record weighted losses both sides are equal from then on: rounding must not decide."""
    found = alphas(ALWA(rule=rule, window=7, first="window"), [c] * 50, [r] * 50)
    assert found[:7] == [1.0] * 7
    assert found[7:] == pytest.approx([r / c] * 43, rel=1e-6)


def test_5_the_paper_begins_with_a_window_of_one_step():
    found = alphas(ALWA(window=7), [0.5] * 30, [0.1] * 30)
    assert found[:8] == [1.0] * 8
    assert found[8:] == pytest.approx([0.2] * 22, rel=1e-6)


def test_6_noisy_losses_of_constant_ratio():
    stream = noisy(0.2, 1200)
    raw_rule = alphas(ALWA(rule="raw", window=40), *stream)[40:]
    assert all(abs(alpha - 0.2) < 0.1 * 0.2 for alpha in raw_rule)
    paper = alphas(ALWA(rule="paper", window=40), *stream)[41:]
    assert min(paper) < 0.3 and max(paper) > 0.9


@pytest.mark.parametrize("rule", RULES)
def test_7_a_step_does_not_know_its_own_losses(rule):
    cls, box = noisy(0.3, 30)
    for i in (3, 6, 9, 10, 11):
        changed = [*cls[:i], *[99.0] * (30 - i)]
        one, other = (alphas(ALWA(rule=rule, window=5), c, box) for c in (cls, changed))
        assert one[: i + 1] == other[: i + 1]
        assert one != other


@pytest.mark.parametrize("rule", RULES)
def test_8_no_gradient_flows_through_alpha(rule):
    balancer = ALWA(rule=rule, window=3, lambda0=0.75, first="window")
    for c in (1.0, 1.2, 1.1):
        balancer.observe(raw(c, 0.3))
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    weighted = balancer({"cls": x[0] ** 2, "box": 5 * x[1], "quality": x.sum()})
    sum(weighted.values()).backward()
    alpha = float(balancer.alpha)
    cls = alpha if rule == "release" else 0.75 * alpha
    assert alpha < 0.4
    assert x.grad.tolist() == pytest.approx([cls * 4 + 1, 0.75 * 5 + 1])


def test_9_a_window_of_one_step():
    with pytest.raises(ValueError, match="ALWA expected a window of at least 2 steps with ddof 1, got 1"):
        ALWA(window=1)
    assert alphas(ALWA(rule="raw", window=1, ddof=0), [1.0, 0.5, 0.5], [0.2, 0.2, 1.0]) == pytest.approx([1, 0.2, 0.4])


def test_10_a_window_without_positives():
    cls, box = [1.0] * 24, [0.0] * 6 + [0.5] * 18
    found = alphas(ALWA(rule="raw", window=6), cls, box)
    assert found[6:12] == pytest.approx([0.01] * 6)
    assert found[12:] == pytest.approx([0.5] * 12)
    # The published rule sees .01 against .5 then, and keeps it.
    assert alphas(ALWA(rule="release", window=6), cls, box)[6:] == pytest.approx([0.01] * 18)
    assert alphas(ALWA(rule="raw", window=6, alpha_min=0.1), cls, box)[6] == pytest.approx(0.1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cut", [1, 8, 13, 20])
def test_11_saved_and_loaded_inside_of_a_window(rule, cut):
    cls, box = noisy(0.3, 40)
    whole = ALWA(rule=rule, window=10, start_after=2)
    expected = trace(whole, cls, box)
    first, second = (ALWA(rule=rule, window=10, start_after=2) for _ in range(2))
    begun = trace(first, cls[:cut], box[:cut])
    told = first.drain()
    second.load_state_dict(first.state_dict())
    assert begun + trace(second, cls[cut:], box[cut:]) == expected
    assert str(told + second.drain()) == str(whole.drain())  # as text: the first rho is not a number


def test_13_fixed_weights_of_1_are_no_balancer():
    x = torch.rand(2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = {"cls": x[0] * 3, "box": x[1] / 7}
    for balancer in (Fixed({"cls": 1.0, "box": 1.0}), ALWA(), Fixed()):
        weighted = balancer(losses)
        assert all(torch.equal(weighted[name], losses[name]) for name in losses)


def test_14_a_step_of_micro_batches_has_one_alpha():
    """The engine shows the mean over micro-batches once a step; alpha does not move in between."""
    one, other = ALWA(rule="raw", window=4), ALWA(rule="raw", window=4)
    draw = torch.Generator().manual_seed(2)
    for _ in range(13):
        micro = torch.rand(2, 3, generator=draw)
        weights = [float(one(raw(1.0, 1.0))["cls"]) for _ in range(3)]
        assert len(set(weights)) == 1
        mean = micro.mean(dim=1)
        one.observe({"cls": mean[0], "box": mean[1]})
        other.observe(raw(float(mean[0]), float(mean[1])))
    assert torch.equal(one.alpha, other.alpha) and one.alpha < 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_15_a_loss_that_is_not_finite_is_not_recorded(bad):
    cls, box = noisy(0.3, 30)
    clean = ALWA(rule="raw", window=5)
    trace(clean, cls, box)
    disturbed = ALWA(rule="raw", window=5)
    for i, (c, r) in enumerate(zip(cls, box, strict=True)):
        if i in (2, 4, 5, 17):
            disturbed.observe(raw(bad, r) if i % 2 else raw(c, bad))
        disturbed.observe(raw(c, r))
    assert torch.equal(clean.alpha, disturbed.alpha)
    assert torch.equal(clean.record, disturbed.record)
    rows, others = clean.drain(), disturbed.drain()
    assert [r["alpha"] for r in rows] == [r["alpha"] for r in others]
    assert [r["step"] for r in others] == [7, 13, 18, 24, 29, 34]  # of the optimizer, those left out too


def test_a_window_by_hand():
    """c = 1, 3 and r = .2, .6: means 2 and .4, deviations sqrt 2 and .2 sqrt 2 (ddof 1), 1 and .2 (ddof 0)."""
    for ddof in (0, 1):
        balancer = ALWA("mean+std", "raw", 2, ddof=ddof)
        trace(balancer, [1.0, 3.0], [0.2, 0.6])
        (row,) = balancer.drain()
        deviation = 2**0.5 if ddof else 1.0
        assert row == pytest.approx({"window": 1, "step": 2, "alpha": 0.2, "rho": 0.2, "cls_mean": 2,
                                     "cls_std": deviation, "reg_mean": 0.4, "reg_std": 0.2 * deviation})
    # The published rules: alpha' = rho / alpha where alpha > rho. rho .5, then .1, then .3.
    cls, box = [1.0] * 6, [0.5, 0.5, 0.1, 0.1, 0.3, 0.3]
    assert alphas(ALWA(rule="release", window=2), [*cls, 1.0], [*box, 1.0]) == pytest.approx(
        [1, 1, 0.5, 0.5, 0.2, 0.2, 0.2])
    assert alphas(ALWA(rule="raw", window=2), [*cls, 1.0], [*box, 1.0]) == pytest.approx([1, 1, .5, .5, .1, .1, .3])


def test_the_trap_of_the_first_step():
    """i % C is 0 for i = 0: with ddof 0 one batch decides, with ddof 1 its deviation is not a number."""
    cls, box = noisy(0.12, 12, seed=3)
    biased = alphas(ALWA(window=5, ddof=0), cls, box)
    assert biased[1] == pytest.approx(box[0] / cls[0], rel=1e-6)
    sample = alphas(ALWA(window=5, ddof=1), cls, box)
    assert sample[:6] == [1.0] * 6 and sample[6] == pytest.approx(0.12, rel=0.15)
    assert alphas(ALWA("std", window=5, ddof=0), cls, box)[1] == 1.0  # 0 > 0 is false


def test_where_the_box_side_leads():
    cls, box = [1.0] * 12, [0.5] * 4 + [2.0] * 4 + [0.5] * 4
    assert alphas(ALWA(rule="raw", window=4), cls, box)[8:] == pytest.approx([0.5] * 4)
    assert alphas(ALWA(rule="raw", window=4, on_le="reset"), cls, box)[8:] == [1.0] * 4


def test_reset_of_the_release_goes_back_to_lambda0():
    balancer = ALWA(rule="release", window=4, on_le="reset", lambda0=0.5)
    found = alphas(balancer, [1.0] * 12, [0.5] * 4 + [2.0] * 8)
    assert found == pytest.approx([0.5] * 4 + [0.5] * 4 + [0.5] * 4)
    assert alphas(ALWA(rule="release", window=4, on_le="reset"), [1.0] * 12, [0.5] * 4 + [2.0] * 8) == pytest.approx(
        [1.0] * 4 + [0.5] * 4 + [1.0] * 4)


def test_a_warm_up_is_not_recorded_and_updates_end():
    cls, box = [9.0] * 3 + [1.0] * 12, [0.1] * 3 + [0.5] * 4 + [0.2] * 8
    assert alphas(ALWA(rule="raw", window=4, start_after=3), cls, box)[6:] == pytest.approx(
        [1.0] + [0.5] * 4 + [0.2] * 4)
    once = ALWA(rule="raw", window=4, start_after=3, updates=1)
    assert alphas(once, cls, box)[7:] == pytest.approx([0.5] * 8)
    assert [row["rho"] for row in once.drain()] == pytest.approx([0.5, 0.2, 0.2])  # still told
    assert alphas(ALWA(window=4, updates=0), cls, box) == [1.0] * 15
    # The window of the paper's first step changes nothing with ddof 1, and is no update.
    assert alphas(ALWA(window=4, updates=1), [1.0] * 12, [0.5] * 12)[5:] == pytest.approx([0.5] * 7)


def test_nothing_changes_in_eval_mode():
    balancer = ALWA(rule="raw", window=2)
    trace(balancer, [1.0, 1.0, 1.0], [0.5, 0.5, 0.1])
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    balancer.eval()
    assert float(balancer(raw(1.0, 1.0))["cls"]) == pytest.approx(0.5)
    balancer.observe(raw(1.0, 0.1))
    after = balancer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sides_and_base_weights():
    """A recipe's weights stay under the balancer; what is of neither side keeps them alone."""
    sides = Sides(base={"cls": 2.0, "l1": 5.0, "giou": 2.0})
    balancer = ALWA(rule="raw", window=2, sides=sides)
    values = {"cls": 3.0, "l1": 0.1, "giou": 0.5, "quality": 7.0}
    losses = {name: torch.tensor(value) for name, value in values.items()}
    for _ in range(2):
        balancer.observe(losses)
    weighted = {name: float(value) for name, value in balancer(losses).items()}
    # Sides: 2 * 3 = 6 and 5 * .1 + 2 * .5 = 1.5.
    assert weighted == pytest.approx({"cls": 6 * 0.25, "l1": 0.5, "giou": 1.0, "quality": 7.0})
    assert list(weighted) == list(losses)
    names = ["cls", "cls_conv", "box", "box_fc", "mask", "clsish"]
    assert Sides().split(names) == (["cls", "cls_conv"], ["box", "box_fc"])
    with pytest.raises(ValueError, match=r"Sides expected losses of classes named \['cls'\] and of boxes named .* has "
                                         r"losses \['positive', 'negative'\]"):
        ALWA()({"positive": torch.ones(()), "negative": torch.ones(())})
    with pytest.raises(ValueError, match=r"Base weights name \['bbox'\], but the branch has losses \['cls', 'box'\]"):
        ALWA(sides=Sides(base={"bbox": 2.0}))(raw(1.0, 1.0))


def test_half_precision_is_recorded_in_float32():
    balancer = ALWA("std", "raw", 4)
    values = [1e-4, 2e-4, 3e-4, 4e-4]
    for v in values:
        balancer.observe({"cls": torch.tensor(1.0 + 100 * v, dtype=torch.bfloat16), "box": torch.tensor(v)})
    assert balancer.record.dtype == torch.float32
    assert balancer.drain()[0]["reg_std"] == pytest.approx(float(torch.tensor(values).std()), rel=1e-5)


def test_windows_are_told_once_and_none_is_missed():
    """Log periods that fit no window, longer and shorter than it."""
    cls, box = noisy(0.3, 100)
    whole = ALWA(rule="raw", window=7)
    trace(whole, cls, box)
    expected = whole.drain()
    assert [row["window"] for row in expected] == list(range(1, 15))
    assert [row["step"] for row in expected] == list(range(7, 99, 7))
    assert whole.drain() == []
    for period in (1, 3, 7, 10, 24):
        balancer, told = ALWA(rule="raw", window=7), []
        for i in range(0, 100, period):
            trace(balancer, cls[i : i + period], box[i : i + period])
            told += balancer.drain()
        assert told == expected


@pytest.mark.parametrize(("options", "expected"), [
    ({"stat": "mean"}, "knows stat"), ({"rule": "best"}, "knows rule"), ({"on_le": "drop"}, "knows on_le"),
    ({"first": "last"}, "knows first"), ({"ddof": 2}, "ddof 0 or 1, got 2"), ({"lambda0": 0}, "positive lambda0"),
    ({"window": 0, "ddof": 0}, "least 1 step"), ({"alpha_min": 2}, "alpha_min in"), ({"updates": -1}, "updates >= 0"),
])  # fmt: skip
def test_values_that_cannot_be_meant(options, expected):
    with pytest.raises(ValueError, match=expected):
        ALWA(**options)


def test_the_contract_of_a_balancer():
    for rule in RULES:
        assert "its state dict holds its state" in check_balancer(lambda rule=rule: ALWA(rule=rule, window=3))
        check_balancer(lambda rule=rule: ALWA("std", rule, 3), ("cls", "l1", "giou", "quality"))
