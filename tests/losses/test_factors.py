"""What losses tell about the weight of each pair is what their gradients show, and telling changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bifocals.check.scene import scene_matched
from bifocals.losses import (
    DR,
    GHM,
    HCRAC,
    HCRAR,
    Focal,
    Initial,
    IoULoss,
    PairFactors,
    QualityFocal,
    SmoothL1,
    Varifocal,
    Weighing,
    WiseIoU,
)
from bifocals.structures import DenseOutput, Matched, Matches

HOSTS = ("none", "iou", "centerness")


def again(matched: Matched) -> Matched:
    """The same view without what it has computed already."""
    return Matched(matched.output, matched.targets, matched.matches)


def copied(matched: Matched, times: int) -> Matched:
    """The batch so many times over."""
    out, m, images = matched.output, matched.matches, len(matched.targets)
    output = DenseOutput(*(getattr(out, n).detach().repeat(times, 1, 1) for n in ("logits", "deltas", "boxes")),
                         out.priors)
    shift = torch.arange(times).repeat_interleave(len(m)) * images
    return Matched(output, list(matched.targets) * times,
                   Matches(m.image.repeat(times) + shift, m.prior.repeat(times), m.gt.repeat(times)))


def own_gradient(loss, matched: Matched) -> Tensor:
    """Gradient of the loss by the logit of each pair's own class."""
    logits = matched.output.logits
    (gradient,) = torch.autograd.grad(loss(again(matched)), logits)
    m = matched.matches
    return gradient[m.image, m.prior, matched.target_labels]


def box_gradient(loss, matched: Matched) -> Tensor:
    """Gradient of the loss by the box of each pair, also where a prior is in two pairs."""
    view = again(matched)
    return torch.autograd.grad(loss(view), view.boxes)[0]


def learned(loss: nn.Module, mode: bool) -> nn.Module:
    """After three steps, so that its state is not that of a fresh one."""
    for seed in range(3):
        loss(scene_matched((4, 2), seed=10 + seed))
    return loss.train(mode)


@pytest.fixture(scope="module")
def matched() -> Matched:
    view = scene_matched((5, 0, 3))
    assert len(view.first_of_class) == int(view.first_of_class.sum())  # one pair a logit: gradients can be told apart
    return view


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", [HCRAC, lambda: HCRAC(bins=5, rci="smooth", bin_norm="all"),
                                  lambda: HCRAC(positive="none", rci="none", negative="exp"), lambda: GHM(10)])
def test_class_weights_are_the_ratio_of_gradients(make, mode: bool, matched: Matched):
    loss = learned(make(), mode)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    told = loss.pair_factors(again(matched))
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in before.items())
    assert not told.weight.requires_grad
    # Mean cross-entropy: the same loss with one bin and no factor.
    plain = HCRAC(bins=1, momentum=0.0, rci="none", positive="none", negative="none")
    ratio = own_gradient(loss, matched) / own_gradient(plain, matched)
    torch.testing.assert_close(told.weight, ratio, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("options", [{}, {"weight": "centerness"}, {"weight": "iou", "norm": "blend"},
                                     {"norm": "none", "rci_max": 2.0}, {"norm": "scalar"}, {"rci": False}])
def test_box_weights_are_the_ratio_of_gradients(options, mode: bool, matched: Matched):
    loss = learned(HCRAR(**options), mode)
    before = loss.mean.value.clone()
    told = loss.pair_factors(again(matched))
    assert torch.equal(loss.mean.value, before)
    plain = box_gradient(IoULoss("giou"), matched) * len(matched.matches)
    divisor = float(told.factors["u"].sum().clamp(min=1)) if "u" in told.factors else len(matched.matches)
    ours = box_gradient(loss, matched) * divisor
    torch.testing.assert_close(ours, plain * told.weight[:, None], rtol=1e-4, atol=1e-6)
    assert ("RCI_reg" in told.details) == loss.rci


def test_the_words_of_the_paper(matched: Matched):
    cls, box = HCRAC().pair_factors(matched), HCRAR(weight="iou").pair_factors(matched)
    assert (list(cls.factors), list(cls.details)) == (["beta", "omega", "RCI_cls"], ["CF_cls"])
    assert (list(box.factors), list(box.details)) == (["CF_reg", "r", "u"], ["RCI_reg"])
    iou, score = matched.iou.detach(), matched.probability.detach()
    torch.testing.assert_close(cls.factors["omega"], iou)
    by_hand = torch.where(score <= iou, torch.sigmoid(5 * (iou - score)), 0)
    torch.testing.assert_close(cls.factors["RCI_cls"], by_hand)
    torch.testing.assert_close(cls.details["CF_cls"], cls.factors["beta"] * iou)
    # A first step in training mode moves the mean from 1 by a hundredth of the way to that of the pairs.
    mean = 0.99 + 0.01 * box.details["RCI_reg"].mean()
    torch.testing.assert_close(box.factors["r"], box.details["RCI_reg"] / mean)


def test_copies_are_the_batch_so_many_times_over(matched: Matched):
    for loss in (learned(HCRAC(), False), learned(GHM(), False)):
        told, many = loss.pair_factors(matched, 3).weight, loss.pair_factors(copied(matched, 3)).weight
        torch.testing.assert_close(told, many[: len(told)])
        assert not torch.allclose(told, loss.pair_factors(matched).weight)
    fresh = HCRAC(momentum=0.0)
    torch.testing.assert_close(fresh.pair_factors(matched, 3).weight, fresh.pair_factors(matched).weight)


def test_a_pair_that_stands_for_no_logit_has_no_weight():
    view = scene_matched((1,))
    m, target = view.matches, view.targets[0]
    twice = replace(target, boxes=target.boxes.repeat(2, 1), labels=target.labels.repeat(2),
                    crowd=target.crowd.repeat(2))
    view = Matched(view.output, [twice], Matches(m.image.repeat(2), m.prior.repeat(2), torch.cat([m.gt, m.gt + 1])))
    for loss in (HCRAC(rci="none"), GHM(), Focal(), QualityFocal(), Varifocal()):
        weight = loss.pair_factors(view).weight
        assert (weight[: len(m)] > 0).all() and not weight[len(m) :].any()


def test_ignored_pairs_have_no_weight(matched: Matched):
    m = matched.matches
    ignore = torch.zeros(matched.output.logits.shape[:2], dtype=torch.bool)
    ignore[m.image[0], m.prior[0]] = True
    view = Matched(matched.output, matched.targets, replace(m, ignore=ignore))
    for loss in (HCRAC(rci="none"), GHM(), Focal(), Varifocal()):
        assert torch.equal(loss.pair_factors(view).weight > 0, ~ignore[m.image, m.prior])


def test_the_other_losses_that_tell(matched: Matched):
    iou, score = matched.iou.detach(), matched.probability.detach()
    torch.testing.assert_close(Focal().pair_factors(matched).weight, 0.25 * (1 - score) ** 2)
    torch.testing.assert_close(QualityFocal().pair_factors(matched).weight, (iou - score) ** 2)
    torch.testing.assert_close(Varifocal().pair_factors(matched).factors["y"], iou.clamp(1e-6, 1))
    torch.testing.assert_close(IoULoss("giou", "iou").pair_factors(matched).factors["u"], iou.clamp(min=1e-6))
    assert IoULoss("giou").pair_factors(matched).factors == {}
    torch.testing.assert_close(IoULoss("focal_eiou").pair_factors(matched).weight, iou**0.5, rtol=1e-4, atol=1e-5)
    wise = learned(WiseIoU(), True)
    told, before = wise.pair_factors(matched), wise.mean.value.clone()
    beta = (1 - iou) / (0.99 * before + 0.01 * (1 - iou).mean())
    torch.testing.assert_close(told.details["beta"], beta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told.weight, beta / (2.7 * 1.7 ** (beta - 2.7)), rtol=1e-4, atol=1e-5)
    assert torch.equal(wise.mean.value, before)
    assert not isinstance(SmoothL1(), Weighing) and not isinstance(DR(), Weighing)
    with pytest.raises(ValueError, match="at least one factor"):
        _ = PairFactors({}).weight


def test_initial_boxes_have_weights_of_their_own(matched: Matched):
    output = replace(matched.output, initial=matched.output.boxes.detach() + 1)
    view = Matched(output, matched.targets, matched.matches)
    inside = HCRAR(weight="iou")
    told = Initial(inside).pair_factors(view)
    expected = inside.pair_factors(Matched(output.before_refinement(), matched.targets, matched.matches))
    torch.testing.assert_close(told.weight, expected.weight)
    assert not torch.allclose(told.weight, inside.pair_factors(view).weight)
    assert Initial(SmoothL1()).pair_factors(view).factors == {}
