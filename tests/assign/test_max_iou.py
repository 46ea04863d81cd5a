"""MaxIoU by hand, and DATE-R's branch on closed-form maps whose losses were recorded from DATE's own code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bifocals.assign import MaxIoU
from bifocals.balance import Fixed
from bifocals.check import ContractError, check_assigner
from bifocals.check.scene import scene_matched
from bifocals.losses import Focal, SmoothL1
from bifocals.networks import flatten_levels
from bifocals.objective import DenseBranch
from bifocals.structures import (
    Anchors,
    DeltaCoder,
    DenseOutput,
    Matched,
    Matches,
    Priors,
    Target,
    make_points,
)

from .test_date_fixtures import EMPTY, SIZES, STRIDES, TARGETS, waves


def priors(*boxes: tuple[float, ...]) -> Priors:
    made = torch.tensor(boxes)
    return Priors((made[:, :2] + made[:, 2:]) / 2, torch.full((len(made),), 8.0), (len(made),), made)


def objects(*boxes: tuple[float, ...], size: int = 64, crowd: tuple[bool, ...] | None = None) -> Target:
    made = torch.tensor(boxes).reshape(-1, 4)
    flags = torch.zeros(len(made), dtype=torch.bool) if crowd is None else torch.tensor(crowd)
    return Target(made, torch.zeros(len(made), dtype=torch.int64), flags, (size, size), (size, size))


ANCHORS = priors((0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 4.5), (0, 0, 10, 2), (40, 40, 50, 50))


@pytest.mark.parametrize("assigner", [MaxIoU(low_quality=False), MaxIoU(0.7, 0.3, min_positive=0.3)])
def test_contract(assigner):
    assert "the order of objects does not matter" in check_assigner(assigner)


def test_the_order_of_objects_decides_who_gets_a_best_anchor_of_two():
    # The rule of the papers: the later object overwrites. So this one part of the contract does not hold.
    with pytest.raises(ContractError, match="when the objects come in another order"):
        check_assigner(MaxIoU())


def test_thresholds_by_hand():
    # IoU with the object: 1, .9, .45, .2, 0. The third is between .4 and .5 and so ignored.
    match = MaxIoU(low_quality=False)(ANCHORS, objects((0.0, 0, 10, 10)))
    assert match.prior.tolist() == [0, 1] and match.gt.tolist() == [0, 0]
    assert match.ignore.tolist() == [False, False, True, False, False]
    assert MaxIoU(0.95, 0.4, False)(ANCHORS, objects((0.0, 0, 10, 10))).prior.tolist() == [0]


def test_low_quality_gives_every_object_its_best_anchor():
    far = objects((0.0, 0, 10, 10), (48.0, 48, 58, 58))  # IoU of the last anchor with the second object: 4 / 196
    match = MaxIoU()(ANCHORS, far)
    assert dict(zip(match.prior.tolist(), match.gt.tolist(), strict=True)) == {0: 0, 1: 0, 4: 1}
    assert len(MaxIoU(low_quality=False)(ANCHORS, far).prior) == 2
    assert len(MaxIoU(min_positive=0.1)(ANCHORS, far).prior) == 2
    # Two objects that tie on one anchor: the later one has it.
    twice = objects((0.0, 0, 10, 10), (0.0, 0, 10, 10))
    assert dict(zip(*(x.tolist() for x in (MaxIoU()(ANCHORS, twice).prior, MaxIoU()(ANCHORS, twice).gt)),
                    strict=True)) == {0: 1, 1: 0}


def test_an_anchor_that_is_taken_may_keep_its_own_best_object():
    # The first object's best anchor is the one that the second object overlaps more.
    anchors, both = priors((0.0, 0, 10, 10), (100, 100, 110, 110)), objects((0.0, 0, 2, 10), (0, 0, 4, 10), size=128)
    taken = MaxIoU(0.7, 0.3, True, 0.0)(anchors, both)
    assert (taken.prior.tolist(), taken.gt.tolist()) == ([0], [1])  # the later one
    assert MaxIoU(0.7, 0.3, True, 0.0)(anchors, objects((0.0, 0, 4, 10), (0, 0, 2, 10), size=128)).gt.tolist() == [1]
    kept = MaxIoU(0.7, 0.3, True, 0.0, keep_best=True)
    assert kept(anchors, objects((0.0, 0, 4, 10), (0, 0, 2, 10), size=128)).gt.tolist() == [0]  # IoU .4, not .2
    # torchvision's rule has no least IoU: what overlaps nothing takes all anchors that it does not overlap.
    far = kept(anchors, objects((0.0, 0, 4, 10), (50, 50, 60, 60), size=128))
    assert (far.prior.tolist(), far.gt.tolist()) == ([0, 1], [0, 0])


def test_padding_and_crowd_regions_are_left_out():
    small = objects((0.0, 0, 10, 10), size=32)
    assert MaxIoU()(ANCHORS, small).ignore.tolist() == [False, False, True, False, True]
    assert not MaxIoU(padding=None)(ANCHORS, small).ignore[4]
    crowded = objects((0.0, 0, 10, 10), (38.0, 38, 52, 52), crowd=(False, True)).without_crowd()
    assert crowded.regions.tolist() == [[38.0, 38, 52, 52]]
    assert MaxIoU(crowd_overlap=0.5)(ANCHORS, crowded).ignore[4]
    assert not MaxIoU()(ANCHORS, crowded).ignore[4]


def test_points_are_refused():
    with pytest.raises(ValueError, match="MaxIoU expected priors with boxes, got points alone"):
        MaxIoU()(make_points([(2, 2)], [8]), objects((0.0, 0, 10, 10)))
    matched = scene_matched((2,))
    points = replace(matched.output, priors=replace(matched.output.priors, boxes=None))
    with pytest.raises(ValueError, match="the priors of this output are points"):
        SmoothL1()(Matched(points, matched.targets, matched.matches))


def test_normalizers():
    matched = scene_matched((4, 0, 2))
    pairs = torch.bincount(matched.matches.image, minlength=3).tolist()
    assert pairs[1] == 0
    assert float(matched.normalizer("reduced")) == sum(pairs)
    assert float(matched.normalizer("local")) == sum(pairs) + 1  # the empty image counts one
    assert float(matched.normalizer("with_images")) == sum(pairs) + 3


def test_date_r_on_waves():
    anchors, coder = Anchors(), DeltaCoder()
    made = anchors.at(make_points(SIZES, STRIDES))
    logits = flatten_levels(waves(27, -4, 3, 0.7, 0.3)).unflatten(2, (9, 3)).flatten(1, 2)
    deltas = flatten_levels(waves(36, 0, 0.6, 1.3, 0.1)).unflatten(2, (9, 4)).flatten(1, 2)
    output = DenseOutput(logits, deltas, coder.decode(made.boxes, deltas), made)
    losses = {"cls": Focal(normalizer="local"), "box": SmoothL1(0.0, coder, "local")}
    branch = DenseBranch(MaxIoU(), losses, Fixed({}), weight=2.0)
    weighted = branch.weigh(branch(output, TARGETS))
    assert float(weighted["cls"]) == pytest.approx(2.475827, rel=1e-5)
    assert float(weighted["box"]) == pytest.approx(4.572985, rel=1e-5)
    matches = branch.match(output, TARGETS)
    assert len(matches) == 159
    assert int((~matches.ignore).sum()) - 159 == 5726
    empty = branch.weigh(branch(output, [EMPTY, EMPTY]))
    assert float(empty["box"]) == 0 and float(empty["cls"]) > 0


def test_smooth_l1_by_hand():
    anchor = priors((0.0, 0, 10, 10))
    target = [objects((1.0, 0, 11, 10))]  # target deltas (.1, 0, 0, 0)
    logits, deltas = torch.zeros(1, 1, 1), torch.tensor([[[0.3, 0.0, 0.0, 0.05]]])
    output = DenseOutput(logits, deltas, DeltaCoder().decode(anchor.boxes, deltas), anchor)
    zero = torch.zeros(1, dtype=torch.int64)
    matched = Matched(output, target, Matches(zero, zero, zero))
    assert float(SmoothL1()(matched)) == pytest.approx(0.25)
    # beta .1: |.2| - .05 + .05^2 / .2
    assert float(SmoothL1(0.1)(matched)) == pytest.approx(0.15 + 0.0125)
