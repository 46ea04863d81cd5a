"""EATSS by hand, beside a plain loop, and what it promises: a superset of ATSS, near, inside, at most so many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bifocals.assign import ATSS, EATSS
from bifocals.assign.atss import INSIDE
from bifocals.check import check_assigner
from bifocals.check.scene import scene_output
from bifocals.structures import Match, Prediction, Priors, Target, distances_from_boxes, pairwise_iou

from .test_atss import line, objects, pyramid, scene

SIZE = (256, 320)


def pairs(match: Match) -> set[tuple[int, int]]:
    return set(zip(match.prior.tolist(), match.gt.tolist(), strict=True))


@pytest.mark.parametrize("assigner", [EATSS(), EATSS(1, levels="near"), EATSS(5, rank="product", inside=False),
                                      EATSS(overlap="predicted"), EATSS(0)])
def test_contract(assigner: EATSS):
    held = check_assigner(assigner)
    assert "the order of objects does not matter" in held and "a batch equals its images one by one" in held


def test_by_hand():
    # Of five candidates the object's IoU are 1, .5, .5, .1, .1: threshold .44 + .37, so the first alone is positive
    # and the reach is its distance, 1. The others near enough are the second and the third, and two that are no
    # candidates, of IoU .25 and .25, the nearer of which is better; the last is too far.
    square = (0.0, 0, 10, 10)
    anchors = line((1, 0, 11, 10), (0, 0, 10, 5), (0, 5, 10, 10), (0, 0, 2, 5), (8, 5, 10, 10),
                   (2.5, 2.5, 7.5, 7.5), (2.5, 2, 7.5, 7), (20, 20, 30, 30))
    ious = pairwise_iou(anchors.boxes, torch.tensor([square]))[:, 0]
    assert ious[5:7].tolist() == pytest.approx([0.25, 0.25])
    # Distances 1, 2.5, 2.5, 4.7, 4.7, 0, .5: within 1 only the last two.
    few = ATSS(8, padding=None)
    target = objects(square)
    assert pairs(few(anchors, target)) == {(0, 0)}
    assert pairs(EATSS(1, few)(anchors, target)) == {(0, 0), (5, 0)}
    assert pairs(EATSS(3, few)(anchors, target)) == {(0, 0), (5, 0), (6, 0)}
    assert pairs(EATSS(3, few, min_iou=0.3)(anchors, target)) == {(0, 0)}


def plain(priors: Priors, target: Target, extras: int, levels: str = "any", weight: float = 1e-3) -> dict[int, int]:
    """Sheet 4.2 object by object: anchor -> object."""
    centers = (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    iou = pairwise_iou(priors.boxes, target.boxes)
    level = priors.level_index()
    first: list[list[int]] = []
    distances = []
    for g, box in enumerate(target.boxes):
        distance = (centers - (box[:2] + box[2:]) / 2).pow(2).sum(1).sqrt()
        candidates = [int(p) for n in range(len(priors.level_sizes))
                      for p in torch.nonzero(level == n)[:, 0][distance[level == n].argsort(stable=True)[:9]]]
        overlap = iou[candidates, g]
        threshold = overlap.mean() + overlap.std()
        inside = distances_from_boxes(centers, box.expand(len(centers), 4)).amin(1) > INSIDE
        first.append([p for p in candidates if iou[p, g] >= threshold and inside[p]])
        distances.append((distance, inside))
    taken = {p for mine in first for p in mine}
    owner: dict[int, tuple[float, int]] = {}
    for g, mine in enumerate(first):
        distance, inside = distances[g]
        more: list[int] = []
        if mine:
            reach = distance[mine].max()
            reached = {int(level[p]) for p in mine}
            near = [p for p in torch.nonzero((distance <= reach) & inside)[:, 0].tolist() if p not in taken]
            if levels == "same":
                near = [p for p in near if int(level[p]) in reached]
            if levels == "near":
                near = [p for p in near if any(abs(int(level[p]) - n) <= 1 for n in reached)]
            more = sorted(near, key=lambda p: -float(iou[p, g] - weight * distance[p] / reach))[:extras]
        for p in mine + more:
            if float(iou[p, g]) > owner.get(p, (-1.0, 0))[0]:
                owner[p] = (float(iou[p, g]), g)
    return {p: g for p, (_, g) in owner.items()}


@pytest.mark.parametrize("levels", ["any", "near", "same"])
def test_like_the_plain_loop(levels: str):
    priors, targets = pyramid(*SIZE), [scene(seed, 12, SIZE) for seed in range(3)]
    assigner = EATSS(3, levels=levels)
    together = assigner.batch(priors, targets)
    for i, target in enumerate(targets):
        assert dict(pairs(together.of_image(i))) == plain(priors, target, 3, levels)


@pytest.mark.parametrize("seed", range(4))
def test_what_it_promises(seed: int):
    priors, target = pyramid(*SIZE), scene(seed, 15, SIZE)
    atss = ATSS()
    base, number = pairs(atss(priors, target)), {}
    assert pairs(EATSS(0)(priors, target)) == base
    previous = base
    for extras in (1, 3, 6):
        found = pairs(EATSS(extras)(priors, target))
        assert base <= found  # no pair of ATSS is lost or goes to another object
        added = found - base
        assert len(added) > len(previous - base)
        for g in range(15):
            mine = [p for p, owner in added if owner == g]
            old = [p for p, owner in base if owner == g]
            assert len(mine) <= extras
            if mine:
                center = (target.boxes[g, :2] + target.boxes[g, 2:]) / 2
                distance = (priors.points - center).pow(2).sum(1).sqrt()
                # The reach is that of the positives before objects compete, so at least that of those kept.
                kept = float(distance[old].max()) if old else 0.0
                assert float(distance[mine].max()) <= max(kept, float(distance[sorted(candidates(target, g))].max()))
                sides = distances_from_boxes(priors.points[mine], target.boxes[g].expand(len(mine), 4))
                assert float(sides.min()) > INSIDE
        number[extras] = len(added)
        previous = found
    assert number[1] < number[3] < number[6] <= 6 * 15


def candidates(target: Target, g: int) -> set[int]:
    """The positives of object g alone, when nobody competes."""
    alone = replace(target, boxes=target.boxes[g : g + 1], labels=target.labels[g : g + 1],
                    crowd=target.crowd[g : g + 1])
    return {p for p, _ in pairs(ATSS()(pyramid(*SIZE), alone))}


def test_an_object_without_positives_gets_none():
    # The second object is so small that no center lies inside.
    target = objects((10.0, 10, 90, 90), (121.5, 121.5, 123, 123), size=SIZE)
    found = pairs(EATSS(3)(pyramid(*SIZE), target))
    assert {g for _, g in found} == {0}
    assert len(EATSS(3)(pyramid(*SIZE), objects(size=SIZE)).prior) == 0


def test_the_order_of_objects_plays_no_part():
    priors, target = pyramid(*SIZE), scene(5, 14, SIZE)
    target = replace(target, boxes=target.boxes[1:], labels=target.labels[1:], crowd=target.crowd[1:])  # no equal boxes
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    shuffled = replace(target, boxes=target.boxes[order], labels=target.labels[order])
    assert {(p, int(order[g])) for p, g in pairs(EATSS()(priors, shuffled))} == pairs(EATSS()(priors, target))


def test_anchors_in_padding_and_crowd_regions_take_no_part():
    small = scene(0, 8, (96, 128))
    alone, canvas = pyramid(96, 128), pyramid(*SIZE)
    assigner = EATSS(4)
    expected, found = assigner(alone, small), assigner(canvas, small)
    keep = torch.nonzero(~assigner(canvas, objects(size=(96, 128))).ignore)[:, 0]
    assert found.prior.tolist() == keep[expected.prior].tolist() and found.gt.tolist() == expected.gt.tolist()
    target = replace(scene(3, 6), crowd_boxes=torch.tensor([[0.0, 0, 160, 256]]))
    strict = ATSS(crowd_overlap=0.5)
    added = pairs(EATSS(4, strict)(canvas, target)) - pairs(strict(canvas, target))
    region = strict.handicap(canvas, [target])[0] > 0
    assert added and not any(bool(region[p]) for p, _ in added)


def test_the_rank_decides_among_those_that_are_near():
    priors, targets = pyramid(*SIZE), [scene(seed, 14, SIZE) for seed in range(6)]
    near = {p for target in targets[:1] for p, _ in pairs(EATSS(10_000)(priors, target))}
    assigners = [EATSS(2), EATSS(2, rank="product"), EATSS(2, rank="exponential"), EATSS(2, distance_weight=10.0)]
    found = [[frozenset(pairs(assigner(priors, target))) for target in targets] for assigner in assigners]
    assert len({tuple(one) for one in found}) == 4
    assert all({p for p, _ in one[0]} <= near for one in found)


def test_predicted_boxes_rank_where_asked():
    priors, target = pyramid(*SIZE), scene(2, 10, SIZE)
    assigner = EATSS(1, overlap="predicted")
    with pytest.raises(ValueError, match="EATSS expected a prediction for overlap 'predicted', got none"):
        assigner(priors, target)
    base = pairs(ATSS()(priors, target))
    every = pairs(EATSS(10_000)(priors, target)) - base
    # Boxes that fit nothing, but for one anchor of an object, whose anchor alone is not the best.
    usual = pairs(EATSS(1)(priors, target)) - base
    prior, g = min(pair for pair in every - usual if sum(owner == pair[1] for _, owner in every) > 1)
    boxes = torch.zeros(len(priors), 4)
    boxes[prior] = target.boxes[g]
    prediction = Prediction(torch.zeros(len(priors), 1), boxes, boxes)
    assert (prior, g) in pairs(assigner(priors, target, prediction))
    output = scene_output(1)
    assert len(assigner.batch(output.priors, [scene(0, 4, (96, 128))], output)) > 0


def test_errors():
    with pytest.raises(ValueError, match="EATSS expected extras of 0 or more, got -1"):
        EATSS(-1)
    with pytest.raises(ValueError, match="EATSS knows levels .'any', 'near', 'same'., got 'all'"):
        EATSS(levels="all")
