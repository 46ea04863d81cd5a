"""Losses of pixels by hand: which pixels are hard, which count, and what the sum is divided by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bifocals.losses import OHEM, Dice, PixelCE

LOSSES = (PixelCE(), PixelCE("reduced"), OHEM(), OHEM(normalizer="reduced"), Dice(), Dice(squared=True))


def logits_of(probabilities: list[float]) -> Tensor:
    """A row of pixels [1 2 1 W] whose class 0 has these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([p, 1 - p]).log()[None, :, None]


def zeros(*labels: int) -> Tensor:
    return torch.tensor(labels)[None, None]


def test_cross_entropy_is_the_mean_over_pixels_that_count():
    logits = logits_of([0.5, 0.25, 0.8])
    assert float(PixelCE()(logits, zeros(0, 0, 255))) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(PixelCE()(logits, zeros(0, 1, 1))) == pytest.approx(-math.log(0.5 * 0.75 * 0.2) / 3)


def test_hard_pixels_are_those_below_seven_tenths():
    logits = logits_of([0.9, 0.5, 0.69, 0.71, 0.01])
    labels = zeros(0, 0, 0, 0, 255)  # the worst of all does not count
    expected = -(math.log(0.5) + math.log(0.69)) / 2
    assert float(OHEM()(logits, labels)) == pytest.approx(expected)
    assert float(OHEM(probability=0.6)(logits, labels)) == pytest.approx(math.log(2))


def test_with_few_hard_pixels_the_worst_are_taken():
    """32 pixels, one of them hard: 32 // 16 = 2 are the least, so the worst of the easy ones comes along."""
    probabilities = [0.99] * 30 + [0.8, 0.5]
    logits, labels = logits_of(probabilities), zeros(*[0] * 32)
    assert float(OHEM()(logits, labels)) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    # 31 that count: 31 // 16 = 1, and one is hard.
    labels[0, 0, 0] = 255
    assert float(OHEM()(logits, labels)) == pytest.approx(math.log(2))
    assert float(OHEM(least=0.5)(logits, labels)) == pytest.approx(  # 15 of 31
        -(math.log(0.5) + math.log(0.8) + 13 * math.log(0.99)) / 15, rel=1e-5)


def test_one_pixel_at_least_is_taken():
    """Fewer than 16 pixels and none of them hard: the release divides nothing by nothing."""
    assert float(OHEM()(logits_of([0.9, 0.8]), zeros(0, 0))) == pytest.approx(-math.log(0.8), rel=1e-5)


def test_only_hard_pixels_have_a_gradient():
    logits = logits_of([0.9, 0.5, 0.3]).requires_grad_()
    OHEM()(logits, zeros(0, 0, 255)).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 0, 0], torch.tensor([0.0, -0.5, 0.0]))


def test_dice_by_hand():
    """Class 0: overlap .9 + .6, predicted .9 + .6 + .2 (of squares .81 + .36 + .04), true 2. Class 1: .8, 1.3, 1."""
    logits, labels = logits_of([0.9, 0.6, 0.2, 0.5]), zeros(0, 0, 1, 255)
    zero, one = 1 - (2 * 1.5 + 1) / (1.7 + 2 + 1), 1 - (2 * 0.8 + 1) / (1.3 + 1 + 1)
    assert float(Dice()(logits, labels)) == pytest.approx((zero + one) / 2, rel=1e-5)
    zero, one = 1 - 3 / (1.21 + 2), 1 - 1.6 / (0.01 + 0.16 + 0.64 + 1)
    assert float(Dice(smooth=0, squared=True)(logits, labels)) == pytest.approx((zero + one) / 2, rel=1e-5)
    # A class that does not occur plays no part.
    alone = 1 - (2 * 1.5 + 1) / (1.5 + 2 + 1)
    assert float(Dice()(logits, zeros(0, 0, 255, 255))) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_where_nothing_counts_the_loss_is_nothing_with_its_graph(loss):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 5), 255))
    assert value.item() == 0
    value.backward()
    assert logits.grad is not None and bool((logits.grad == 0).all())


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_order_of_pixels_does_not_matter_and_alone_is_as_reduced(loss):
    logits, labels = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.randint(0, 5, (2, 6, 6))
    labels[labels == 4] = 255
    order = torch.randperm(36)
    shuffled = loss(logits.flatten(2)[:, :, order].view_as(logits), labels.flatten(1)[:, order].view_as(labels))
    torch.testing.assert_close(shuffled, loss(logits, labels))
    if isinstance(loss, PixelCE | OHEM):
        torch.testing.assert_close(type(loss)(normalizer="local")(logits, labels), loss(logits, labels))


def test_what_is_ignored_can_be_another_label():
    logits = logits_of([0.5, 0.25])
    for loss in (PixelCE(ignore=1), OHEM(ignore=1)):
        assert float(loss(logits, zeros(0, 1))) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: PixelCE("mean"), "knows the normalizers"), (lambda: OHEM(1.0), "probability between 0 and 1"),
    (lambda: OHEM(least=2), "least, a share"), (lambda: Dice(-1), "smooth of 0 or more"),
])
def test_impossible_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
