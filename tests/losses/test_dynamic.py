"""Dynamic R-CNN's smooth L1: by hand, over steps, crowded images, across a checkpoint."""

from __future__ import annotations

import math

import pytest
import torch

from bifocals.check import check_loss
from bifocals.check.scene import scene_matched
from bifocals.losses import DynamicSmoothL1, SmoothL1
from bifocals.structures import DenseOutput, Matched, Matches, Priors, Target


def matched(*shifts: float, images: int = 1, predicted: float = 0.0) -> Matched:
    """RoIs of 10 pixels, each with an object that lies `shift` of its side to the right: an error of half of that."""
    count = len(shifts)
    rois = torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1)
    boxes = rois + torch.tensor([[10 * s, 0, 10 * s, 0] for s in shifts]).reshape(-1, 4)
    deltas = torch.full((1, count, 4), predicted, requires_grad=True)
    output = DenseOutput(torch.zeros(1, count, 1), deltas, rois[None], Priors.of_boxes(rois))
    index = torch.arange(count)
    nothing = torch.zeros(count, dtype=torch.int64)
    target = Target(boxes, nothing, nothing.bool(), (64, 64), (64, 64))
    return Matched(output, [target], Matches(torch.zeros_like(index), index, index), joined=images)


def test_contract():
    check_loss(lambda: _Anchored(DynamicSmoothL1()))


class _Anchored(torch.nn.Module):
    """The loss of deltas on a scene of points: squares of four strides around them."""

    def __init__(self, loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, scene: Matched) -> torch.Tensor:
        priors = scene.output.priors
        half = 2 * priors.strides[:, None]
        boxes = torch.cat([priors.points - half, priors.points + half], dim=1)
        made = Priors(priors.points, priors.strides, priors.level_sizes, boxes)
        output = DenseOutput(scene.output.logits, scene.output.deltas, scene.output.boxes, made)
        return self.loss(Matched(output, scene.targets, scene.matches))


def test_it_is_smooth_l1_of_its_beta():
    scene = matched(0.3, 1.0, 2.0, predicted=0.1)
    for beta in (1.0, 0.25):
        loss = DynamicSmoothL1(initial=beta)
        torch.testing.assert_close(loss(scene), SmoothL1(beta)(scene))


def test_beta_by_hand():
    # Errors .05 .1 .15 .2: the second smallest of one image, the fourth of two; 1, 3: there are fewer than two.
    loss = DynamicSmoothL1(rank=2, every=4)
    for scene in (matched(0.1, 0.2, 0.3, 0.4), matched(0.4, 0.3, 0.2, 0.1, images=2), matched(2.0), matched()):
        assert float(loss.beta) == 1.0
        loss(scene).backward()
    # .1 .2 1 and nothing: the median of three
    assert float(loss.beta) == pytest.approx(0.2)
    for scene in (matched(0.1), matched(0.2), matched(0.3), matched(0.4)):
        loss(scene)
    assert float(loss.beta) == pytest.approx(0.125)  # between .1 and .15
    other = DynamicSmoothL1(rank=2, every=4, rule="original")
    for scene in (matched(0.1), matched(0.2), matched(0.3), matched(0.4)):
        other(scene)
    assert float(other.beta) == pytest.approx(0.15)
    assert other.scheduled() == {"beta": float(other.beta)}


def test_beta_falls_with_the_errors_and_never_rises_above_its_start():
    loss = DynamicSmoothL1(rank=1, every=10)
    seen = []
    for step in range(50):
        loss(matched(4.0 * 0.9**step, 5.0))
        seen.append(float(loss.beta))
    steps = seen[9::10]
    assert steps[0] == 1.0 and steps == sorted(steps, reverse=True) and steps[-1] < 0.05
    assert len(set(seen)) <= 6


@pytest.mark.parametrize("rule", ["mmdet", "original"])
def test_a_crowded_image_does_not_make_beta_zero(rule):
    # 10 objects and more give 10 RoIs without error, the objects' own boxes.
    loss = DynamicSmoothL1(rank=10, every=2, rule=rule)
    for _ in range(2):
        loss(matched(*[0.0] * 10, 0.2, 0.4))
    # The original looks at the proposals alone: .1 and .2, of which the tenth is the last.
    assert float(loss.beta) == (1.0 if rule == "mmdet" else pytest.approx(0.2))
    value = loss(matched(*[0.0] * 20)).detach()
    assert math.isfinite(float(value)) and float(value) == 0


def test_without_objects_there_is_nothing_to_note():
    loss = DynamicSmoothL1(every=2)
    for _ in range(2):
        value = loss(matched())
        value.backward()
        assert float(value.detach()) == 0
    assert float(loss.beta) == 1.0


def test_evaluation_notes_nothing():
    loss = DynamicSmoothL1(every=1).eval()
    loss(matched(0.1))
    assert float(loss.beta) == 1.0 and int(loss.history.count) == 0


def test_a_checkpoint_goes_on_exactly():
    one, other = DynamicSmoothL1(every=4), DynamicSmoothL1(every=4)
    for k in range(3):
        one(matched(0.1 * k, 0.5))
    other.load_state_dict(one.state_dict())
    for loss in (one, other):
        for k in range(6):
            loss(matched(0.2 * k, 0.3))
    assert torch.equal(one.beta, other.beta) and float(one.beta) < 1
    assert all(torch.equal(a, other.state_dict()[n]) for n, a in one.state_dict().items())


def test_a_dense_head_counts_its_images():
    assert scene_matched((2, 0)).num_images == 2 and matched(0.1, images=3).num_images == 3


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="initial above 0 and rank and every of 1 or more, got 0, 10"):
        DynamicSmoothL1(initial=0)
    with pytest.raises(ValueError, match="got 'both'"):
        DynamicSmoothL1(rule="both")
