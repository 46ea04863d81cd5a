"""GHM-C by hand and against its definition, its state, and the gradient that is written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import bifocals.losses.ghm
from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import GHM, GradientDensity
from bifocals.losses.ghm import WeightedCrossEntropy
from bifocals.structures import Matched, Matches
from tests.golden.losses import matched_rows


@pytest.mark.parametrize("make", [GHM, lambda: GHM(10, 0.0), lambda: GHM(20, 0.5, "all", "zero", reduced=False)])
def test_contract(make):
    held = check_loss(make)
    assert "its state dict holds its state" in held
    assert "finite without objects, graph kept" in held


def of_probabilities(*rows: list[float], labels: list[int] | None = None) -> Matched:
    logits = torch.logit(torch.tensor(rows, dtype=torch.float64)).float().requires_grad_()
    return matched_rows(logits, torch.tensor(labels or [len(rows[0])] * len(rows)))


def test_ghm_by_hand():
    # g = .1 and .2 share a bin, .9 has its own: betas 3 / 2 / 2 and 3 / 1 / 2, the mean of the two bins' means.
    matched = of_probabilities([0.1, 0.2, 0.9])
    loss = GHM(bins=2, momentum=0.0)(matched)
    assert float(loss.detach()) == pytest.approx(1.233419, abs=1e-6)
    expected = ((-math.log(0.9) - math.log(0.8)) / 2 - math.log(0.1)) / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, matched.output.logits)
    torch.testing.assert_close(gradient[0, 0], torch.tensor([0.75 * 0.1, 0.75 * 0.2, 1.5 * 0.9]) / 3)


def test_an_object_counts_in_the_bin_of_one_minus_p():
    # .9 is an object now: its g is .1, and all three share a bin.
    loss = GHM(bins=2, momentum=0.0)(of_probabilities([0.1, 0.2, 0.9], labels=[2]))
    assert float(loss.detach()) == pytest.approx(-(2 * math.log(0.9) + math.log(0.8)) / 3, rel=1e-5)


def test_the_formula_divides_by_all_bins():
    ours = GHM(bins=8, momentum=0.0, bin_norm="all")(of_probabilities([0.1, 0.2, 0.9])).detach()
    usual = GHM(bins=8, momentum=0.0)(of_probabilities([0.1, 0.2, 0.9])).detach()
    torch.testing.assert_close(ours, usual * 3 / 8)  # .1, .2 and .9 lie in three bins of eight


def by_definition(matched: Matched, bins: int) -> tuple[Tensor, Tensor]:
    """Mean over the bins that are not empty of the mean cross-entropy in the bin, and its weights' sum."""
    logits, targets = matched.output.logits.detach().requires_grad_(), matched.class_targets
    counted = torch.ones_like(targets, dtype=torch.bool) if matched.counted is None else (
        matched.counted[..., None].expand_as(targets))
    g = (logits.detach().sigmoid() - targets).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    means = [entropy[mine].mean() for k in range(bins)
             if (mine := counted & (g >= k / bins) & ((g < (k + 1) / bins) | (k == bins - 1))).any()]
    loss = torch.stack(means).mean()
    return loss, torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("bins", [1, 10, 30])
def test_without_momentum_it_is_the_mean_of_the_means_of_the_bins(bins: int, ignored: bool):
    matched = scene_matched((5, 0, 3))
    if ignored:
        ignore = torch.zeros(matched.output.logits.shape[:2], dtype=torch.bool)
        ignore[0, ::3] = True
        ignore[matched.matches.image[0], matched.matches.prior[0]] = True
        matched = Matched(matched.output, matched.targets, replace(matched.matches, ignore=ignore))
        kept = ~ignore[matched.matches.image, matched.matches.prior]
        m = matched.matches
        plain = Matched(matched.output, matched.targets, Matches(m.image[kept], m.prior[kept], m.gt[kept], ignore))
    else:
        plain = matched
    loss = GHM(bins, 0.0)(matched)
    loss.backward()
    expected, gradient = by_definition(plain, bins)
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(matched.output.logits.grad, gradient, rtol=1e-4, atol=1e-8)


def test_a_prior_of_two_objects_of_a_class_counts_once():
    matched = scene_matched((1,))
    m, target = matched.matches, matched.targets[0]
    twice = replace(target, boxes=target.boxes.repeat(2, 1), labels=target.labels.repeat(2),
                    crowd=target.crowd.repeat(2))
    doubled = Matched(matched.output, [twice],
                      Matches(m.image.repeat(2), m.prior.repeat(2), torch.cat([m.gt, m.gt + 1])))
    torch.testing.assert_close(GHM()(matched), GHM()(doubled))


def test_the_weights_of_all_elements_sum_to_their_number():
    density, counts = GradientDensity(5, 0.0), torch.tensor([7, 0, 3, 1, 0])
    beta, total = density(counts)
    assert float((beta * counts).sum()) == pytest.approx(11)
    assert float(total) == 11
    assert beta.tolist()[1] == 0


def test_counts_are_smoothed_from_their_first_visit_on():
    density = GradientDensity(3, 0.75)
    density(torch.tensor([8, 0, 4]))
    assert density.counts.tolist() == [8, 0, 4]
    density(torch.tensor([4, 8, 0]))  # the last bin is empty and keeps what it had
    assert density.counts.tolist() == [7, 8, 4]
    released = GradientDensity(3, 0.75, first_visit="zero")
    beta, _ = released(torch.tensor([8, 0, 4]))
    assert released.counts.tolist() == [2, 0, 1]
    assert beta.tolist() == [12 / 2 / 2, 0, 12 / 1 / 2]  # four times as much as without the quirk


def test_evaluation_reads_the_state_and_leaves_it():
    density = GradientDensity(3, 0.75)
    density(torch.tensor([8, 0, 4]))
    beta, _ = density.eval()(torch.tensor([2, 4, 0]))
    assert density.counts.tolist() == [8, 0, 4]
    assert beta.tolist() == [6 / 8 / 2, 6 / 4 / 2, 0]


def test_resumed_is_uninterrupted():
    loss, views = GHM(), [scene_matched((3, 1), seed=s) for s in range(4)]
    values = [float(loss(v).detach()) for v in views]
    first, second = GHM(), GHM()
    for view in views[:2]:
        first(view)
    second.load_state_dict(first.state_dict())
    assert [float(second(v).detach()) for v in views[2:]] == values[2:]


def test_two_ranks_do_what_one_process_does(monkeypatch: pytest.MonkeyPatch):
    whole = scene_matched((4, 2))
    GHM(10)(whole).backward()
    halves = []
    for image in range(2):
        mine = whole.matches.image == image
        m = whole.matches
        output = replace(whole.output, logits=whole.output.logits[image : image + 1].detach().requires_grad_(),
                         boxes=whole.output.boxes[image : image + 1], deltas=whole.output.deltas[image : image + 1],
                         quality=None)
        halves.append(Matched(output, [whole.targets[image]],
                              Matches(torch.zeros_like(m.image[mine]), m.prior[mine], m.gt[mine])))
    counts: list[Tensor] = []
    monkeypatch.setattr(bifocals.losses.ghm, "sum_over_ranks", lambda c: counts.append(c) or c)
    for half in halves:
        GHM(10)(half)
    monkeypatch.setattr(bifocals.losses.ghm, "sum_over_ranks", lambda c: counts[0] + counts[1])
    monkeypatch.setattr(bifocals.losses.ghm, "world_size", lambda: 2)
    for image, half in enumerate(halves):
        (GHM(10)(half) / 2).backward()
        torch.testing.assert_close(half.output.logits.grad[0], whole.output.logits.grad[image], rtol=1e-5, atol=1e-9)


def test_the_gradient_written_by_hand():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(12, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(12, generator=draw, dtype=torch.float64)
    entries, own = torch.tensor([3, 7, 7]), torch.rand(3, generator=draw, dtype=torch.float64)
    weight[entries] = 0

    def run(x: Tensor) -> Tensor:  # the function uses up its weights
        return WeightedCrossEntropy.apply(x, x.detach().sigmoid(), weight.clone(), entries, own)

    assert torch.autograd.gradcheck(run, (logits,))


def test_a_logit_that_is_no_number_makes_the_loss_none():
    matched = scene_matched((2,))
    with torch.no_grad():
        matched.output.logits[0, 7, 1] = math.nan
    assert math.isnan(float(GHM()(matched).detach()))


def test_no_priors_counted_at_all():
    logits = torch.zeros(3, 2, requires_grad=True)
    loss = GHM()(matched_rows(logits, torch.tensor([0, 2, 2]), torch.zeros(3, dtype=torch.bool)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GHM(bins=0), "1 bin or more"),
        (lambda: GHM(momentum=1.0), "below 1"),
        (lambda: GHM(bin_norm="x"), "got 'x'"),
        (lambda: GHM(first_visit="y"), "'y'"),
    ],
)
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
