"""Every name makes a loss that keeps the contract, with the defaults of its source."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import get_args

import pytest

from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import (
    DR,
    GHM,
    HCRAC,
    HCRAR,
    BalancedL1,
    BoxLossName,
    ClsLossName,
    Focal,
    IoULoss,
    QualityFocal,
    SmoothL1,
    Varifocal,
    WiseIoU,
    named_box_loss,
    named_cls_loss,
)
from bifocals.structures import DeltaCoder, Matched

BOX_NAMES = list(chain.from_iterable(get_args(names) for names in get_args(BoxLossName)))


@pytest.mark.parametrize("name", get_args(ClsLossName))
def test_cls_losses_keep_the_contract(name: ClsLossName):
    check_loss(lambda: named_cls_loss(name))


@pytest.mark.parametrize("name", BOX_NAMES)
def test_box_losses_are_finite_and_learn(name: BoxLossName):
    matched = scene_matched((4, 2))
    # Sides as deltas of boxes around the point: an anchor as large as the box that is predicted.
    priors = replace(matched.output.priors, boxes=matched.output.boxes[0].detach())
    loss = named_box_loss(name)(Matched(replace(matched.output, priors=priors), matched.targets, matched.matches))
    loss.backward()
    learned = matched.output.deltas if name in ("l1", "smooth_l1", "balanced_l1") else matched.output.boxes
    assert bool(loss.isfinite())
    assert bool(learned.grad.isfinite().all())
    assert bool(learned.grad.any())


def test_the_defaults_are_those_of_the_sources():
    made = [named_cls_loss(name) for name in get_args(ClsLossName)]
    assert [type(loss) for loss in made] == [Focal, QualityFocal, Varifocal, DR, GHM, HCRAC]
    assert made[:4] == [Focal(0.25, 2.0), QualityFocal(2.0), Varifocal(0.75, 2.0), DR(1.0)]
    assert (made[4].density.bins, made[5].density.bins, made[5].theta, made[5].mu) == (30, 20, 5.0, 0.7)
    assert named_box_loss("l1") == SmoothL1(0.0)
    assert named_box_loss("smooth_l1", beta=0.5) == SmoothL1(0.5)
    assert named_box_loss("balanced_l1") == BalancedL1(0.5, 1.5, 1.0)
    assert named_box_loss("alpha_iou") == IoULoss("alpha_iou", alpha=3.0, least=1.0)
    hcra = named_box_loss("hcra", gamma=1.5, weight="centerness")
    assert isinstance(hcra, HCRAR)
    assert (hcra.gamma, hcra.alpha, hcra.ep, hcra.weight) == (1.5, 0.1, 0.001, "centerness")
    wise = named_box_loss("wiou_v3")
    assert isinstance(wise, WiseIoU)
    assert (wise.alpha, wise.delta) == (1.7, 2.7)


def test_what_a_recipe_passes_on_arrives():
    coder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    assert named_cls_loss("qfl", "local") == QualityFocal(normalizer="local")
    assert named_box_loss("l1", coder=coder, normalizer="local") == SmoothL1(0.0, coder, "local")
    assert named_box_loss("eiou", weight="iou", normalizer="local") == IoULoss("eiou", "iou", normalizer="local",
                                                                               least=1.0)


def test_each_loss_is_fresh():
    assert named_cls_loss("hcra").density is not named_cls_loss("hcra").density


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named_cls_loss("zou"), "named_cls_loss knows .* got 'zou'"),
        (lambda: named_box_loss("zou"), "named_box_loss knows .* got 'zou'"),
        (lambda: named_box_loss("l1", weight="iou"), "weight 'none' for 'l1'"),
    ],
)
def test_unknown_names_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
