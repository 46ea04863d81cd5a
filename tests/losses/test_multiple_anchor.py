"""Losses of bags: counts, closed forms of Mean-max, degenerate bags, and who gets gradient (docs/methods/mal.md)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from bifocals.assign import Bags
from bifocals.check import check_loss
from bifocals.check.scene import scene_output, scene_target
from bifocals.losses import BagLoss, mean_max, mean_of_best, num_selected
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import DeltaCoder, Matched, Matches, Scheduled

ALL = [BagLoss(), BagLoss(select="mean_max"), BagLoss(select="all", aggregate="nll_mean"), BagLoss(select="max")]


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_contract(loss):
    assert "finite without objects, graph kept" in check_loss(lambda: loss)


# The number of selected anchors


@pytest.mark.parametrize(("total", "k"), [(135_000, 50), (180_000, 50), (612, 50), (1000, 40)])
def test_every_number_lasts_equally_long(total: int, k: int):
    counts = [num_selected("topn", k, t, total) for t in range(1, total + 1)]
    assert counts[0] == k and counts[-1] == 1
    assert all(a >= b for a, b in pairwise(counts))
    lasts = Counter(counts)
    assert set(lasts) == set(range(1, k + 1))
    assert all(abs(n - total / k) <= 1 for n in lasts.values())
    assert sum(counts) / total == pytest.approx((k + 1) / 2, abs=0.05)


def test_counts_of_the_paper():
    # 135,000 steps: 2,700 of each, one alone in the last 2 %. In floating point seven boundaries would be a step off.
    counts = [num_selected("topn", 50, t, 135_000) for t in range(1, 135_001)]
    assert Counter(counts)[25] == 2_700 and counts.index(1) == 132_300
    assert sum(counts) / len(counts) == pytest.approx(25.49995, abs=1e-4)
    assert num_selected("topn", 50, 0, 135_000) == 50  # Eq. 5 has 51 of 50 here
    assert [num_selected(s, 50, 600, 1000) for s in ("topn", "all", "mean_max", "max")] == [21, 50, 50, 1]


def test_the_clock_counts_finished_steps():
    loss = BagLoss(10)
    assert isinstance(loss, Scheduled)
    assert loss.scheduled() == {"selected": 10.0}
    seen = []
    for step in range(20):
        loss.set_step(step, 20)
        seen.append(loss.selected)
    assert seen[0] == 10 and seen[-1] == 1 and seen == sorted(seen, reverse=True)
    objective = Objective({"one2many": DenseBranch(Bags(10), {"positive": loss})})
    objective.set_step(9, 20)
    assert objective.scheduled() == {"one2many/selected": 6.0}


# Mean-max


def nll_of(*scores: float) -> torch.Tensor:
    return -torch.tensor([scores], dtype=torch.float64).log()


def test_mean_max_by_hand():
    assert float((-mean_max(nll_of(0.1, 0.2, 0.9))).exp()) == pytest.approx(0.757303, abs=1e-6)
    assert float(mean_max(nll_of(0.1, 0.2, 0.9))) == pytest.approx(0.277991, abs=1e-6)
    for best, bag in ((0.9, 1 / 6), (0.99, 2 / 3), (0.999, 20 / 21)):
        assert float((-mean_max(nll_of(*[0.02] * 49, best))).exp()) == pytest.approx(bag, rel=1e-9)


def test_the_gradient_of_mean_max_is_its_closed_form():
    scores = torch.tensor([[0.1, 0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    (-mean_max(-scores.log())).exp().sum().backward()
    assert scores.grad[0].tolist() == pytest.approx([0.024239, 0.030678, 1.963388], abs=1e-6)
    scores = torch.rand(20, 50, dtype=torch.float64).mul(0.98).add(0.01).requires_grad_()
    bag = (-mean_max(-scores.log())).exp()
    bag.sum().backward()
    weight = 1 / (1 - scores.detach())
    torch.testing.assert_close(scores.grad, 50 * weight**2 / weight.sum(1, keepdim=True) ** 2)
    torch.testing.assert_close(bag.detach(), 1 - 50 / weight.sum(1))
    assert bool((scores.mean(1) <= bag).all()) and bool((bag <= scores.amax(1)).all())


def test_mean_max_in_float32_is_the_one_in_float64():
    draw = torch.Generator().manual_seed(0)
    # From one in a hundred thousand to all but certain, and some far beyond what float32 can hold as a probability.
    nll = torch.cat([torch.rand(9, 50, generator=draw) * 12,
                     (torch.rand(9, 50, generator=draw) ** 8 * 10).clamp(min=1e-4),
                     torch.rand(9, 50, generator=draw) * 300 + 100])
    values, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = nll.to(dtype).clone().requires_grad_()
        loss = mean_max(leaf)
        loss.sum().backward()
        values.append(loss.detach().double())
        gradients.append(leaf.grad.double())
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_mean_max_does_not_depend_on_the_order():
    nll = torch.rand(4, 50) * 5
    order = torch.randperm(50)
    torch.testing.assert_close(mean_max(nll[:, order]), mean_max(nll))


def test_a_certain_anchor_ends_the_learning_of_its_bag():
    nll = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    loss = mean_max(nll)
    loss.sum().backward()
    assert loss.tolist() == [0.0] and nll.grad.tolist() == [[0.0, 0.0, 0.0]]


# Degenerate bags


def test_equal_scores_are_equal_to_all_and_to_the_best():
    nll = torch.full((3, 50), 1.25)
    for other in (mean_of_best(nll, 50), mean_of_best(nll, 1), mean_of_best(nll, 50, "nll_mean")):
        torch.testing.assert_close(mean_max(nll), other)


def test_aggregates():
    nll = nll_of(0.1, 0.2, 0.4).float()
    assert float(mean_of_best(nll, 2)) == pytest.approx(-torch.tensor([0.2, 0.4]).log().mean().item())
    assert float(mean_of_best(nll, 2, "nll_mean")) == pytest.approx(-torch.tensor(0.3).log().item())
    many = torch.rand(20, 50) * 4
    assert bool((mean_of_best(many, 50, "nll_mean") <= mean_of_best(many, 50)).all())
    assert torch.equal(mean_of_best(many, 1, "nll_mean"), mean_of_best(many, 1))
    assert torch.equal(mean_of_best(many, 1), many.amin(1))


def test_bags_of_unequal_size():
    nll = torch.tensor([[1.0, 2.0, 4.0], [3.0, 9.0, 9.0]], requires_grad=True)
    real = torch.tensor([[True, True, True], [True, False, False]])
    assert mean_of_best(nll, 2, real=real).tolist() == [1.5, 3.0]
    torch.testing.assert_close(mean_of_best(nll, 2, "nll_mean", real)[1], nll[1, 0])
    torch.testing.assert_close(mean_max(nll, real), torch.stack([mean_max(nll[:1])[0], nll[1, 0]]))
    (mean_max(nll, real) + mean_of_best(nll, 3, real=real) + mean_of_best(nll, 3, "nll_mean", real)).sum().backward()
    assert nll.grad[1].tolist() == [3.0, 0.0, 0.0]


# The whole loss


def view(k: int, *counts: int, seed: int = 1) -> Matched:
    output = scene_output(len(counts), seed)
    output = replace(output, deltas=(output.deltas.detach() / 40 - 1).requires_grad_())
    targets = [scene_target(n, seed + i) for i, n in enumerate(counts)]
    matches = [Bags(k)(output.priors, t) for t in targets]
    return Matched(output, targets, Matches.stack(matches, len(output.priors)))


def detection_losses(matched: Matched, beta: float = 0.75) -> torch.Tensor:
    """Cross-entropy of the object's class plus beta times smooth L1, by other means than the loss."""
    logits = matched.logits.gather(1, matched.target_labels[:, None])[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    target = DeltaCoder((0.1, 0.1, 0.2, 0.2)).encode(matched.anchors, matched.target_boxes)
    gap = (matched.deltas - target).abs()
    smooth = torch.where(gap < 0.11, 0.5 * gap**2 / 0.11, gap - 0.055).sum(dim=1)
    return entropy + beta * smooth


def test_the_score_ranks_like_the_detection_loss():
    matched = view(50, 4, 2)
    expected = detection_losses(matched)
    torch.testing.assert_close(BagLoss().nll(matched), expected)
    p = matched.probability
    distance = (expected + p.log()) / 0.75
    scores = p.log() - 0.75 * distance  # F of Eq. 3
    assert scores.argsort().tolist() == (-BagLoss().nll(matched)).argsort().tolist()


@pytest.mark.parametrize("step", [0, 3, 9])
def test_bags_of_one_are_the_best_anchor_whatever_is_selected(step: int):
    matched = view(1, 5, 3)
    expected = detection_losses(matched).mean()
    for select in ("topn", "mean_max", "all", "max"):
        for aggregate in ("mean_nll", "nll_mean"):
            loss = BagLoss(1, select, aggregate)
            loss.set_step(step, 10)
            torch.testing.assert_close(loss(matched), expected)


def test_the_ends_of_the_schedule():
    matched = view(20, 5, 0, 3)
    first, last = BagLoss(20), BagLoss(20)
    first.set_step(0, 1000)
    last.set_step(999, 1000)
    assert torch.equal(first(matched), BagLoss(20, "all")(matched))
    assert torch.equal(last(matched), BagLoss(20, "max")(matched))
    best = detection_losses(matched).view(8, 20).amin(1).mean()
    torch.testing.assert_close(last(matched), best)
    torch.testing.assert_close(first(matched), detection_losses(matched).mean())


def test_anchors_that_are_not_selected_learn_nothing():
    matched = view(20, 3)
    loss = BagLoss(20)
    loss.set_step(499, 1000)
    assert loss.selected == 11
    nll = loss.nll(matched).view(3, 20)
    chosen = {int(p) for p in matched.matches.prior.view(3, 20).gather(1, nll.argsort(1)[:, :11]).flatten()}
    loss(matched).backward()
    learned = torch.nonzero(matched.output.deltas.grad[0].abs().sum(1))[:, 0].tolist()
    assert set(learned) == chosen


def test_an_anchor_in_two_bags_learns_from_both():
    matched = view(50, 6)
    prior = matched.matches.prior.view(6, 50)
    shared = set(prior[0].tolist()) & set(prior[1].tolist())
    assert shared
    BagLoss(50, "all")(matched).backward()
    both = matched.output.deltas.grad.clone()
    parts = torch.zeros_like(both)
    for g in range(6):
        matched.output.deltas.grad = None
        mine = slice(50 * g, 50 * g + 50)
        m = matched.matches
        alone = Matched(matched.output, matched.targets, Matches(m.image[mine], m.prior[mine], m.gt[mine]))
        BagLoss(50, "all")(alone).backward()
        parts += matched.output.deltas.grad
    torch.testing.assert_close(both, parts)


def test_the_loss_is_a_mean_over_the_objects_of_the_batch():
    both, one, other = view(10, 4, 2), view(10, 4, 0), view(10, 0, 2)
    for select in ("mean_max", "all"):
        loss = BagLoss(10, select)
        torch.testing.assert_close(loss(both), (4 * loss(one) + 2 * loss(other)) / 6)


def test_no_object_at_all():
    for select in ("topn", "mean_max"):
        matched = view(50, 0, 0)
        loss = BagLoss(select=select)(matched)
        loss.backward()
        assert loss.item() == 0
        assert matched.output.deltas.grad is not None and not matched.output.deltas.grad.any()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: BagLoss(0), "k of 1 or more"), (lambda: BagLoss(select="best"), "got 'best'"),
    (lambda: BagLoss(aggregate="sum"), "got 'sum'"), (lambda: BagLoss(box_weight=-1), "box_weight"),
])  # fmt: skip
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
