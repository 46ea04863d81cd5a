"""Bags: the best anchors of each object, none too small for one, and one anchor in several."""

from __future__ import annotations

import pytest
import torch

from bifocals.assign import Bags
from bifocals.check import check_assigner
from bifocals.structures import Anchors, Priors, Target, make_points, pairwise_iou


def priors(*boxes: tuple[float, ...]) -> Priors:
    made = torch.tensor(boxes)
    return Priors((made[:, :2] + made[:, 2:]) / 2, torch.full((len(made),), 8.0), (len(made),), made)


def objects(*boxes: tuple[float, ...], hw: tuple[int, int] = (64, 64)) -> Target:
    made = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(made), dtype=torch.int64)
    return Target(made, labels, torch.zeros(len(made), dtype=torch.bool), hw, hw)


def pyramid(size: int) -> Priors:
    strides = (8, 16, 32, 64, 128)
    return Anchors().at(make_points([(-(-size // s),) * 2 for s in strides], strides))


@pytest.mark.parametrize("assigner", [Bags(), Bags(5), Bags(1000), Bags(9, padding=32)], ids=repr)
def test_contract(assigner):
    assert "the order of objects does not matter" in check_assigner(assigner)


def test_by_hand():
    anchors = priors((0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 4.5), (0, 0, 10, 2), (40, 40, 50, 50))
    # IoU with the objects: 1, .9, .45, .2, 0 and .2, 2/9, .44, 1, 0. The first four are in both bags.
    match = Bags(4)(anchors, objects((0, 0, 10, 10), (0, 0, 10, 2)))
    assert match.prior.view(2, 4).tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert match.gt.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert match.ignore is None
    # Fewer than k anchors: all of them.
    assert Bags(9)(anchors, objects((0, 0, 10, 10))).prior.tolist() == [0, 1, 2, 3, 4]
    empty = Bags(9)(anchors, objects())
    assert len(empty.prior) == len(empty.gt) == 0


def test_bags_hold_the_best_of_all_levels_whatever_the_size():
    anchors, target = pyramid(320), objects((10, 10, 26, 26), (5, 40, 315, 250), (100, 100, 103, 300), hw=(320, 320))
    match = Bags(50)(anchors, target)
    prior = match.prior.view(3, 50)
    iou = pairwise_iou(target.boxes, anchors.boxes)
    for row, bag in zip(iou, prior, strict=True):
        assert len(set(bag.tolist())) == 50
        out = torch.ones(len(anchors), dtype=torch.bool)
        out[bag] = False
        assert row[bag].min() >= row[out].max()
    assert iou[0].max() < 0.5  # an object of 16 pixels has 50 anchors, though RetinaNet's threshold gives it none
    assert len({int(anchors.level_index()[p]) for p in prior[1]}) > 1


def test_anchors_in_the_padding_of_the_canvas():
    # Four cells of 8 pixels in a row, an anchor each; the image is 16 pixels wide.
    anchors = Anchors(1.0, 1, (1.0,)).at(make_points([(1, 4)], [8]))
    target = objects((20, 0, 28, 8), (0, 0, 8, 8), hw=(8, 16))
    everywhere = Bags(3)(anchors, target)
    assert len(everywhere.prior) == 6 and 3 in everywhere.prior.tolist()
    inside = Bags(3, padding=8)(anchors, target)
    assert inside.prior.view(2, 2).sort(dim=1).values.tolist() == [[0, 1], [0, 1]]
    assert inside.ignore.tolist() == [False, False, True, True]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Bags(0), "k of 1 or more, got 0"), (lambda: Bags(padding=0), "padding None or 1 and more, got 0"),
    (lambda: Bags()(make_points([(4, 4)], [8]), objects((0, 0, 9, 9))), "got points alone"),
])  # fmt: skip
def test_what_it_cannot_do_is_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
