"""Samplers: quotas by hand, torchvision's sample from a shared seed, the quirks of Libra's release."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from bifocals.assign import FCOS, MaxIoU, Sampled
from bifocals.check.scene import scene_priors, scene_target
from bifocals.structures import Match, Priors, Target

from .test_max_iou import objects, priors


class Given:
    """An assigner with a given outcome: the object of each prior, -1 background, -2 ignored; IoU as given."""

    def __init__(self, gt: list[int], iou: list[float] | None = None) -> None:
        self.gt = torch.tensor(gt)
        self.iou = torch.zeros(len(gt)) if iou is None else torch.tensor(iou)

    def __call__(self, priors, target, prediction=None) -> Match:
        prior = (self.gt >= 0).nonzero()[:, 0]
        return Match(prior, self.gt[prior], self.gt == -2)

    def overlaps(self, priors, target):
        return self.iou[:, None]


def boxes(count: int) -> Priors:
    return priors(*[(0.0, 0.0, 8.0, 8.0)] * count)


ONE = objects((0.0, 0, 8, 8))
NONE = objects()


def counts(match: Match) -> tuple[int, int]:
    return len(match.prior), int((~match.ignore).sum()) - len(match.prior)


@pytest.mark.parametrize(
    ("positive", "negative", "options", "expected"),
    [
        (10, 100, {}, (4, 4)),  # half of 8
        (2, 100, {}, (2, 6)),  # background fills up
        (10, 1, {}, (4, 1)),  # and may be too little
        (10, 100, {"positive_share": 0.25}, (2, 6)),
        (1, 100, {"neg_pos_ub": 5}, (1, 5)),
        (0, 100, {"neg_pos_ub": 5}, (0, 5)),  # without objects as if there were one
        (4, 100, {"neg_pos_ub": 5}, (4, 4)),
        (0, 100, {"neg_pos_ub": 0}, (0, 0)),
        (5, 100, {"num": 7}, (3, 4)),  # 3.5 rounds down
        (0, 0, {}, (0, 0)),
    ],
)
@pytest.mark.parametrize("negatives", ["random", "iou_balanced"])
@pytest.mark.parametrize("positives", ["random", "instance_balanced"])
def test_quotas(positive, negative, options, expected, positives, negatives):
    given = Given([0] * positive + [-1] * negative + [-2] * 9)
    sampler = Sampled(given, positives=positives, negatives=negatives, **{"num": 8, **options})
    match = sampler(boxes(positive + negative + 9), ONE)
    assert counts(match) == expected
    assert not match.ignore[match.prior].any() and match.ignore[-9:].all()


@pytest.mark.parametrize("positive", [0, 3, 40])
@pytest.mark.parametrize("num", [16, 1000])
def test_a_shared_seed_gives_torchvisions_sample(positive: int, num: int):
    draw = torch.Generator().manual_seed(5)
    label = torch.cat([torch.ones(positive), torch.zeros(60), -torch.ones(20)])
    label = label[torch.randperm(len(label), generator=draw)].long()
    given = Given(torch.where(label > 0, 0, label - 1).tolist())
    torch.manual_seed(3)
    theirs = BalancedPositiveNegativeSampler(num, 0.25)([label, label])
    torch.manual_seed(3)
    for i in range(2):
        match = Sampled(given, num, 0.25)(boxes(len(label)), ONE)
        assert match.prior.tolist() == theirs[0][i].nonzero()[:, 0].tolist()
        chosen = ~match.ignore
        chosen[match.prior] = False
        assert chosen.nonzero()[:, 0].tolist() == theirs[1][i].nonzero()[:, 0].tolist()


def test_pairs_keep_their_objects_and_match_the_assigner():
    layout, target = scene_priors(), scene_target(9, 4)
    half = 2 * layout.strides[:, None]
    anchors = Priors(layout.points, layout.strides, layout.level_sizes,
                     torch.cat([layout.points - half, layout.points + half], 1))
    whole = MaxIoU(0.4, 0.2)(anchors, target)
    gt_of = dict(zip(whole.prior.tolist(), whole.gt.tolist(), strict=True))
    few = Sampled(MaxIoU(0.4, 0.2), 16)(anchors, target)
    assert len(few.prior) == 8 and len(gt_of) > 8
    assert all(gt_of[p] == g for p, g in zip(few.prior.tolist(), few.gt.tolist(), strict=True))
    assert not (whole.ignore & ~few.ignore).any()
    empty = Sampled(MaxIoU(0.4, 0.2, padding=None), 16, negatives="iou_balanced")(anchors, scene_target(0))
    assert counts(empty) == (0, 16)


def test_a_prior_of_two_objects_keeps_both_pairs():
    def both(priors, target, prediction=None):
        return Match(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 1]))

    match = Sampled(both, 4)(boxes(6), ONE)
    assert match.prior.tolist() == [1, 1, 2] and counts(match) == (3, 1)  # two priors with objects, two without


def test_instance_balanced_quota_by_hand():
    # Objects with 2, 30 and 50 pairs; 16 wanted: round(16 / 3) + 1 = 6 each, so 2 + 6 + 6 = 14 and two more at random.
    given = Given([0] * 2 + [1] * 30 + [2] * 50 + [-1] * 5)
    sampler = Sampled(given, 32, positives="instance_balanced")
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        match = sampler(boxes(87), ONE)
        found = torch.bincount(match.gt, minlength=3).tolist()
        assert found[0] == 2 and min(found[1:]) >= 6 and sum(found) == 16
        seen.add(tuple(found))
        assert len(set(match.prior.tolist())) == 16
    assert len(seen) > 1
    # Four objects of 20 pairs, 10 wanted: round(2.5) + 1 = 3 each (half to even), 12 in all: two go at random.
    given = Given([0] * 20 + [1] * 20 + [2] * 20 + [3] * 20)
    found = [torch.bincount(Sampled(given, 20, positives="instance_balanced")(boxes(80), ONE).gt, minlength=4)
             for _ in range(20)]
    assert all(f.sum() == 10 and f.max() <= 3 for f in found)


def test_trimming_favors_no_object():
    # 3 of each of 3 objects are kept (round(6 / 3) + 1), then 6 of these 9: on average 2 each, however many they had.
    given = Given([0] * 4 + [1] * 40 + [2] * 400)
    sampler = Sampled(given, 12, positives="instance_balanced")
    torch.manual_seed(0)
    total = sum(torch.bincount(sampler(boxes(444), ONE).gt, minlength=3) for _ in range(300))
    assert (total / 300 - 2).abs().max() < 0.2, total


IOU = [0.0] * 100 + [0.1] * 40 + [0.3] * 40 + [0.4] * 40 + [1.0]


def parts(match: Match) -> list[int]:
    """Background of IoU 0, .1, .3 and .4."""
    chosen = ~match.ignore
    return [int(chosen[a:b].sum()) for a, b in ((0, 100), (100, 140), (140, 180), (180, 220))]


def test_iou_balanced_bins_of_the_release():
    # One object among the proposals has IoU 1: the parts are [0, 1/3), [1/3, 2/3), [2/3, 1), the last one empty.
    # 30 wanted: ten each of (.1, .3) and of .4; the third quota is a random choice of all three, none of IoU 0.
    given = Given([-1] * 220 + [0], IOU)
    for seed in range(10):
        torch.manual_seed(seed)
        zero, low, middle, high = parts(Sampled(given, 31, negatives="iou_balanced")(boxes(221), ONE))
        assert zero == 0 and low + middle + high == 30 and low + middle >= 10 and high >= 10
    # 121 - 1: as many as there are with IoU above 0. One more has to come from those that touch nothing.
    assert parts(Sampled(given, 121, negatives="iou_balanced")(boxes(221), ONE)) == [0, 40, 40, 40]
    assert parts(Sampled(given, 131, negatives="iou_balanced")(boxes(221), ONE)) == [10, 40, 40, 40]


def test_iou_balanced_bins_of_the_paper():
    # Parts [0, 1/6), [1/6, 1/3), [1/3, 1/2): ten each, where the first holds IoU 0 and .1.
    given = Given([-1] * 220 + [0], IOU)
    for seed in range(10):
        torch.manual_seed(seed)
        zero, low, middle, high = parts(Sampled(given, 31, negatives="iou_balanced", bin_rule="paper")(boxes(221), ONE))
        assert (zero + low, middle, high) == (10, 10, 10)
        # 62 - 1 = 61: 20 of each part, and one of any.
        found = parts(Sampled(given, 62, negatives="iou_balanced", bin_rule="paper")(boxes(221), ONE))
        assert sum(found) == 61 and min(found[0] + found[1], found[2], found[3]) == 20


def test_the_best_background_lies_in_no_part_of_the_release():
    # Without an object among the proposals the last part ends below the best IoU, so its holder only fills up.
    given = Given([-1] * 5 + [-1] * 3, [0.4, 0.01, 0.01, 0.01, 0.01, 0.2, 0.2, 0.2])
    for seed in range(10):
        torch.manual_seed(seed)
        # Quota 1 of (0, .133) and [.133, .267) each and of the empty last part; the third is any of the other six.
        chosen = ~Sampled(given, 3, negatives="iou_balanced")(boxes(8), ONE).ignore
        assert chosen.sum() == 3 and chosen[1:5].any() and chosen[5:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num of 1 or more"),
        ({"positive_share": 1.5}, "positive_share in \\[0, 1\\], got 256 and 1.5"),
        ({"positives": "all"}, "positives of .*, got 'all'"),
        ({"bin_rule": "both"}, "got 'both'"),
        ({"reach": 0.0}, "reach in \\(0, 1\\], got 3 and 0.0"),
        ({"negatives": "iou_balanced", "assigner": FCOS()}, "an assigner with overlaps, got FCOS"),
    ],
)
def test_bad_options_are_named(options, message: str):
    with pytest.raises(ValueError, match=message):
        Sampled(**{"assigner": MaxIoU(), **options})


def test_real_iou_reaches_the_bins():
    anchors = priors((0, 0, 10, 10), (0, 0, 10, 4), (0, 0, 10, 1), *[(40.0, 40, 50, 50)] * 20)
    target: Target = objects((0.0, 0, 10, 10))
    match = Sampled(MaxIoU(0.5, 0.5, low_quality=False), 3, negatives="iou_balanced")(anchors, target)
    assert match.prior.tolist() == [0] and (~match.ignore).nonzero()[:, 0].tolist() == [0, 1, 2]
