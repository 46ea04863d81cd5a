"""Quality that learns IoU, and losses of the boxes before refinement."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import HCRAR, Initial, IoULoss, IoUQuality
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import DenseOutput, Match, Matched, Matches, Priors, Target


def one_pair(quality: float = 0.0) -> Matched:
    """A box that shares a third with its object; before refinement it was half inside: IoU 1/2."""
    boxes = torch.tensor([[[5.0, 0, 15, 10]]], requires_grad=True)
    initial = torch.tensor([[[0.0, 0, 5, 10]]], requires_grad=True)
    priors = Priors(torch.tensor([[5.0, 5]]), torch.tensor([8.0]), (1,), torch.tensor([[1.0, 1, 9, 9]]))
    output = DenseOutput(torch.zeros(1, 1, 1), boxes, boxes, priors,
                         torch.full((1, 1), quality, requires_grad=True), initial=initial)
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.tensor([False]), (16, 16), (16, 16))
    zero = torch.zeros(1, dtype=torch.int64)
    return Matched(output, [target], Matches(zero, zero, zero))


def test_quality_by_hand():
    matched = one_pair(quality=math.log(3))  # 3/4 said, 1/3 true
    loss = IoUQuality()(matched)
    assert float(loss.detach()) == pytest.approx(-math.log(3 / 4) / 3 - 2 * math.log(1 / 4) / 3, rel=1e-5)
    loss.backward()
    assert float(matched.output.quality.grad) == pytest.approx(3 / 4 - 1 / 3)
    assert matched.output.boxes.grad is None  # the target carries no gradient
    assert check_loss(IoUQuality)


def test_initial_boxes_by_hand():
    matched = one_pair()
    assert float(IoULoss("linear")(matched).detach()) == pytest.approx(2 / 3)
    loss = Initial(IoULoss("linear"))(matched)
    assert float(loss.detach()) == pytest.approx(1 / 2)
    loss.backward()
    assert matched.output.initial.grad is not None and matched.output.boxes.grad is None


def test_each_of_two_losses_has_its_own_state():
    matched = scene_matched((4, 2))
    matched = replace(matched, output=replace(matched.output, initial=matched.output.boxes.detach() + 3))
    branch = DenseBranch(lambda *_: Match.empty("cpu"), {"box": HCRAR(), "initial": Initial(HCRAR())})
    for loss in branch.losses.values():
        loss(matched)
    names = [n for n in branch.state_dict() if n.endswith("value")]
    assert names == ["stateful.box.mean.value", "stateful.initial.loss.mean.value"]
    first, second = (branch.state_dict()[n] for n in names)
    assert float(first) != float(second) != 1.0
    assert "stateful" in next(iter(Objective({"one2many": branch}).branches["one2many"].state_dict()))


def test_boxes_that_are_not_refined_are_named():
    with pytest.raises(ValueError, match="asked for, but this output has initial None"):
        Initial(IoULoss())(scene_matched((1,)))
