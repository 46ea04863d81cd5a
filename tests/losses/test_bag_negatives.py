"""The background beside bags: soft by decoded IoU, literal by anchor IoU, and its numerics at both ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bifocals.assign import Bags
from bifocals.check import check_loss
from bifocals.check.scene import scene_output, scene_target
from bifocals.losses import IoUNegatives, SoftNegatives
from bifocals.losses.bag_negatives import Entries, background, surprise
from bifocals.structures import DenseOutput, Matched, Matches, Priors, Target, pairwise_iou


@pytest.mark.parametrize("loss", [SoftNegatives(), SoftNegatives(1.5, 0.3), IoUNegatives(), IoUNegatives(2)], ids=repr)
def test_contract(loss):
    assert "finite without objects, graph kept" in check_loss(lambda: loss)


def view(boxes: list[list[float]], objects: list[list[float]], labels: list[int], logit: float = 0.0,
         pairs: tuple[list[int], list[int]] = ([], [])) -> Matched:
    """One image of 100x100; as many priors as boxes, which are what they predict and their anchors; three classes."""
    made = torch.tensor([boxes], dtype=torch.float32)
    logits = torch.full((1, len(boxes), 3), logit).requires_grad_()
    priors = Priors(made[0, :, :2], torch.full((len(boxes),), 8.0), (len(boxes),), made[0])
    output = DenseOutput(logits, made, made, priors)
    target = Target(torch.tensor(objects, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64),
                    torch.zeros(len(labels), dtype=torch.bool), (100, 100), (100, 100))
    prior, gt = (torch.tensor(x, dtype=torch.int64) for x in pairs)
    return Matched(output, [target], Matches(torch.zeros_like(prior), prior, gt))


def shares(entries: Entries) -> dict[tuple[int, int], float]:
    return {(p, c): s for p, c, s in zip(entries.prior.tolist(), entries.label.tolist(), entries.share.tolist(),
                                         strict=True)}


# Soft negatives


BOXES = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [0, 0, 10, 6], [0, 0, 10, 5]]
"""IoU with the first: 1, .9, .8, .6, .5."""


def test_shares_by_hand():
    found = shares(SoftNegatives().entries(view(BOXES, [[0, 0, 10, 10]], [2])))
    assert set(found) == {(0, 2), (1, 2), (2, 2)}  # .6 is not above .6
    assert [found[p, 2] for p in range(3)] == pytest.approx([1, 0.75, 0.5], abs=1e-6)
    assert found[0, 2] == 1


def test_the_best_box_of_each_object_is_no_background_at_all():
    # The best box of the object has IoU .9 alone: its share is 1, that of .8 is 2/3.
    found = shares(SoftNegatives().entries(view(BOXES[1:], [[0, 0, 10, 10]], [0])))
    assert found == {(0, 0): 1.0, (1, 0): pytest.approx(2 / 3, abs=1e-5)}


def test_nothing_above_the_threshold():
    for boxes in (BOXES[4:], BOXES[3:], [[50, 50, 60, 60]]):
        assert not shares(SoftNegatives().entries(view(boxes, [[0, 0, 10, 10]], [0])))
    barely = math.nextafter(0.6, 1) * 10
    loss = SoftNegatives()(view([[0, 0, 10, barely]], [[0, 0, 10, 10]], [0]))
    assert bool(loss.isfinite())


def test_two_objects_of_a_class_and_one_of_another():
    objects = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9]]
    found = shares(SoftNegatives().entries(view(BOXES, objects, [1, 1, 0])))
    # Box 2 is the best of the second object: 1, though the first gives it .5. Box 0: 1 for the first.
    assert found[2, 1] == 1 and found[0, 1] == 1 and found[1, 0] == 1
    iou = torch.tensor([1, 0.9, 0.8, 0.6, 0.5]), torch.tensor([0.8, 8 / 9, 1, 0.75, 0.625])
    expected = torch.maximum((iou[0] - 0.6) / 0.4, (iou[1] - 0.6) / 0.4).clamp(0, 1)
    assert [found.get((p, 1), 0.0) for p in range(5)] == pytest.approx(expected.tolist(), abs=1e-5)
    assert not any(c == 2 for _, c in found)


def plain(matched: Matched, threshold: float = 0.6, gamma: float = 2.0) -> torch.Tensor:
    """The loss before its divisor with all of [P, C] built for each image, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for i, target in enumerate(matched.targets):
        p = matched.output.logits[i].double().sigmoid()
        share = torch.zeros_like(p)
        iou = pairwise_iou(target.boxes, matched.output.boxes[i].detach()).double()
        for row, label in zip(iou, target.labels, strict=True):
            if row.max() > threshold:
                own = ((row - threshold) / (row.max() - threshold)).clamp(0, 1)
                share[:, label] = torch.maximum(share[:, label], own)
        z = p * (1 - share)
        total = total + (z**gamma * -torch.log1p(-z)).sum()
    return total


@pytest.mark.parametrize("threshold", [0.1, 0.6])
def test_it_is_the_formula(threshold: float):
    output = scene_output(3)
    targets = [scene_target(6), scene_target(0), scene_target(3, seed=4)]
    # Half of the first image's boxes lie near its objects.
    boxes = output.boxes.detach().clone()
    near = targets[0].boxes.repeat(len(output.priors), 1)[: len(output.priors)]
    boxes[0, ::2] = near[::2] + torch.randn(near[::2].shape)
    output = replace(output, boxes=boxes)
    matches = Matches.stack([Bags(9)(output.priors, t) for t in targets], len(output.priors))
    matched = Matched(output, targets, matches)
    assert len(SoftNegatives(2.0, threshold).entries(matched).share) > 50
    loss = SoftNegatives(2.0, threshold)(matched)
    loss.backward()
    gradient = output.logits.grad.clone()
    output.logits.grad = None
    expected = plain(Matched(output, targets, matches), threshold) / (9 * 9)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient, output.logits.grad, rtol=1e-4, atol=1e-8)


def test_a_fresh_network():
    # MAL's prior of .02 on 201,600 anchors and 80 classes costs 130.33 an image; here a hundredth of them.
    logits = torch.full((2_016, 80), math.log(0.02 / 0.98))
    assert float(surprise(logits, 2.0).sum()) == pytest.approx(1.3033, abs=1e-4)


def test_probabilities_are_cut():
    logits = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    loss = surprise(logits, 2.0)
    loss.sum().backward()
    assert loss[2].item() == loss[3].item() == pytest.approx(-math.log(1e-7), rel=1e-4)
    assert loss[:2].tolist() == pytest.approx([1e-36] * 2, rel=1e-3) and logits.grad.tolist() == [0, 0, 0, 0]


def test_ignored_priors_do_not_count():
    matched = view(BOXES, [[0, 0, 10, 10]], [2])
    ignore = torch.tensor([[False, True, False, False, True]])
    with_ignore = Matched(matched.output, matched.targets, replace(matched.matches, ignore=ignore))
    SoftNegatives()(with_ignore).backward()
    gradient = matched.output.logits.grad[0]
    assert gradient.any(dim=1).tolist() == [True, False, True, True, False]
    assert gradient[0].ne(0).tolist() == [True, True, False]


# Literal negatives


def test_literal_background_by_hand():
    # Bag of the object of class 1: boxes 0 and 3. IoU of .4 and more: all but the last two. Those are background.
    boxes = [*BOXES[:3], [60, 60, 70, 70], [0, 0, 10, 3]]
    matched = view(boxes, [[0, 0, 10, 10]], [1], pairs=([0, 3], [0, 0]))
    assert shares(IoUNegatives(2).entries(matched)) == {(p, 1): 1.0 for p in range(4)}
    loss = IoUNegatives(2, "max")(matched)
    loss.backward()
    # 15 entries, 4 of them left out, each .25 ln 2; one anchor is chosen.
    assert loss.item() == pytest.approx(11 * 0.25 * math.log(2), rel=1e-5)
    assert matched.output.logits.grad[0].ne(0).tolist() == [[True, False, True]] * 4 + [[True] * 3]


def test_literal_background_is_divided_by_the_anchors_chosen():
    matched = view(BOXES, [[0, 0, 10, 10]], [1], pairs=([0, 1, 2, 3], [0, 0, 0, 0]))
    loss = IoUNegatives(4)
    values = []
    for step in range(8):
        loss.set_step(step, 8)
        values.append(loss(matched).item())
    assert [values[-1] / v for v in values] == pytest.approx([4, 4, 3, 3, 2, 2, 1, 1], rel=1e-5)


def test_background_without_entries_is_the_focal_loss_of_nothing():
    matched = view(BOXES, [], [], logit=0.5)
    none = torch.zeros(0, dtype=torch.int64)
    value = background(matched, Entries(none, none, none, torch.zeros(0)), 2.0)
    p = 1 / (1 + math.exp(-0.5))
    assert value.item() == pytest.approx(15 * p**2 * -math.log(1 - p), rel=1e-5)
    assert SoftNegatives()(matched).item() == pytest.approx(value.item())


@pytest.mark.parametrize(("make", "message"), [
    (lambda: SoftNegatives(threshold=1.0), "got 2.0 and 1.0"), (lambda: IoUNegatives(least=0), "got 2.0 and 0"),
])  # fmt: skip
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
