"""The branch of a RoI head, and the losses and divisors of sampled priors, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bifocals.assign import MaxIoU, Sampled
from bifocals.balance import Fixed
from bifocals.check import check_loss
from bifocals.check.scene import scene_output, scene_target
from bifocals.losses import BinaryCrossEntropy, Focal, IoULoss, SmoothL1, SoftmaxCrossEntropy
from bifocals.objective import DenseBranch, Objective, RoIBranch
from bifocals.structures import DeltaCoder, DenseOutput, Matched, Matches, Priors, RoIOutput, Target

CODER = DeltaCoder((0.1, 0.1, 0.2, 0.2))


def target(*boxes: tuple[float, ...], labels: tuple[int, ...] = ()) -> Target:
    made = torch.tensor(boxes).reshape(-1, 4)
    return Target(made, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(made), dtype=torch.bool),
                  (100, 100), (100, 100))


TARGETS = [target((0.0, 0, 10, 10), labels=(1,)), target(), target((5.0, 5, 25, 25), (50, 50, 90, 70), labels=(0, 1))]


def output(pairs: bool = True) -> RoIOutput:
    """Four regions of two classes in three images: background, object 1 of image 2, object 0 of image 0, background."""
    rois = torch.tensor([[0.0, 0, 20, 20], [50, 50, 90, 70], [0, 0, 10, 20], [60, 60, 80, 80]])
    matches = Matches(torch.tensor([2, 0]), torch.tensor([1, 2]), torch.tensor([1, 0]))
    logits = torch.log(torch.tensor([[0.1, 0.3, 0.6], [0.25, 0.5, 0.25], [0.2, 0.7, 0.1], [0.5, 0.25, 0.25]]))
    deltas = torch.zeros(4, 2, 4)
    deltas[1, 1] = torch.tensor([0.5, 0, -1, 0])  # of its own class; the other class must not count
    deltas[:, 0] = 99
    return RoIOutput(logits.requires_grad_(), deltas.requires_grad_(), rois, torch.tensor([0, 2, 0, 1]), CODER,
                     matches if pairs else None)


def test_losses_by_hand():
    branch = RoIBranch({"cls": SoftmaxCrossEntropy(), "box": SmoothL1(0, CODER, "counted")}, Fixed({"box": 2.0}))
    losses = Objective({"roi": branch})({"roi": output()}, TARGETS)
    expected = -(math.log(0.6) + math.log(0.5) + math.log(0.7) + math.log(0.25)) / 4
    assert float(losses.raw["roi/cls"].detach()) == pytest.approx(expected, rel=1e-5)
    # Region 1 is its object: wrong by .5 + 1. Region 2 is twice as high as its object: its center is 5 of 20 pixels
    # too low (-.25 / .1) and its height ln 2 too much (/ .2).
    wrong = 1.5 + 2.5 + math.log(2) / 0.2
    assert float(losses.raw["roi/box"].detach()) == pytest.approx(wrong / 4, rel=1e-5)  # by all regions, not by pairs
    assert float(losses.weighted["roi/box"].detach()) == pytest.approx(wrong / 2, rel=1e-5)


def test_only_the_class_of_the_object_gets_a_gradient_for_its_box():
    made = output()
    RoIBranch({"box": SmoothL1(0, CODER, "counted")})(made, TARGETS)["box"].backward()
    assert made.deltas.grad[:, 0].abs().sum() == 0 and made.deltas.grad[[0, 3]].abs().sum() == 0
    assert made.deltas.grad[1, 1].tolist() == [0.25, 0, -0.25, 0]


def test_losses_see_the_regions_of_the_batch_as_one_image():
    matched = RoIBranch({"cls": SoftmaxCrossEntropy()}).matched(output(), TARGETS)
    assert matched.target_boxes.tolist() == [[50, 50, 90, 70], [0, 0, 10, 10]]
    assert matched.target_labels.tolist() == [1, 1]
    assert matched.anchors.tolist() == [[50, 50, 90, 70], [0, 0, 10, 20]]
    # .05 widths to the right, e^-.2 as wide: an IoU loss sees decoded boxes.
    width = 40 * math.exp(-0.2)
    torch.testing.assert_close(matched.boxes[0], torch.tensor([72 - width / 2, 50, 72 + width / 2, 70]))
    iou = RoIBranch({"box": IoULoss("linear", normalizer="counted")})(output(), TARGETS)["box"]
    assert float(iou.detach()) == pytest.approx((1 - math.exp(-0.2) + 0.5) / 4, rel=1e-5)


def test_no_region_at_all_gives_zero_with_its_graph():
    empty = RoIOutput(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 2, 4, requires_grad=True),
                      torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), CODER,
                      Matches(*(torch.zeros(0, dtype=torch.int64) for _ in range(3))))
    losses = RoIBranch({"cls": SoftmaxCrossEntropy(), "box": SmoothL1(0, CODER, "counted")})(empty, [TARGETS[1]])
    assert [float(v.detach()) for v in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert empty.logits.grad is not None and empty.deltas.grad is not None


def test_a_mask_loss_joins_under_its_name():
    branch = RoIBranch({"cls": SoftmaxCrossEntropy()}, Fixed({"mask": 3.0}), mask=lambda o, t: torch.tensor(len(t)))
    raw = branch(output(), TARGETS)
    assert list(raw) == ["cls", "mask"] and float(raw["mask"]) == 3
    assert float(branch.weigh(raw)["mask"]) == 9


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, *_: object) -> torch.Tensor:
        self.calls += 1
        return self.calls.clone()

    def set_step(self, step: int, total: int) -> None:
        self.step = step


def test_parts_with_state_are_in_the_state_dict_and_hear_the_clock():
    branch = RoIBranch({"cls": Counting()}, mask=Counting())
    branch(output(), TARGETS)
    assert {n: float(v) for n, v in branch.state_dict().items()} == {"mask.calls": 1, "stateful.cls.calls": 1}
    branch.set_step(7, 9)
    assert branch.losses["cls"].step == branch.mask.step == 7


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="RoIBranch expected an output with matches"):
        RoIBranch({"cls": SoftmaxCrossEntropy()})(output(pairs=False), TARGETS)
    with pytest.raises(ValueError, match="RoIBranch expected at least one loss"):
        RoIBranch({})
    with pytest.raises(ValueError, match="as its argument mask"):
        RoIBranch({"mask": SoftmaxCrossEntropy()})


def test_contracts():
    assert check_loss(lambda: BinaryCrossEntropy("local"))
    assert check_loss(lambda: SoftmaxCrossEntropy("local"))


def sampled() -> Matched:
    """Two images of five priors: one pair and two of background count in the first, no pair and one in the second."""
    made = torch.tensor([[0.0, 0, 8, 8]] * 5)
    logits = torch.arange(10.0).reshape(2, 5, 1).requires_grad_()
    dense = DenseOutput(logits, torch.zeros(2, 5, 4), made.expand(2, 5, 4), Priors.of_boxes(made))
    ignore = torch.tensor([[False, True, False, False, True], [True, True, False, True, True]])
    matches = Matches(torch.tensor([0]), torch.tensor([2]), torch.tensor([0]), ignore)
    return Matched(dense, [replace(TARGETS[0], labels=torch.tensor([0])), TARGETS[1]], matches)


def test_divisors_of_sampled_priors():
    matched = sampled()
    assert float(matched.normalizer("counted")) == 4
    assert float(matched.normalizer("sampled")) == 1 + 2 + 1 + 1  # the second image counts one that it does not have
    everything = replace(matched, matches=replace(matched.matches, ignore=None))
    assert float(everything.normalizer("counted")) == 10 and float(everything.normalizer("sampled")) == 1 + 4 + 1 + 5
    nothing = replace(matched, matches=replace(matched.matches, ignore=torch.ones(2, 5, dtype=torch.bool)))
    assert float(nothing.normalizer("counted")) == 1 and float(nothing.normalizer("sampled")) == 4


def test_binary_cross_entropy_by_hand():
    matched = sampled()
    loss = BinaryCrossEntropy("counted")(matched)
    softplus = [math.log1p(math.exp(x)) for x in (0.0, -2.0, 3.0, 7.0)]  # priors 0, 2 (the object's), 3; and 7
    assert float(loss.detach()) == pytest.approx(sum(softplus) / 4, rel=1e-5)
    loss.backward()
    assert matched.output.logits.grad.flatten().nonzero()[:, 0].tolist() == [0, 2, 3, 7]


def test_an_rpn_knows_one_class():
    made, target = scene_output(2), scene_target(4)
    one = DenseOutput(made.logits[..., :1], made.deltas, made.boxes, made.priors)
    branch = DenseBranch(Sampled(MaxIoU(0.4, 0.3), 8), {"cls": BinaryCrossEntropy()}, class_agnostic=True)
    torch.manual_seed(0)
    loss = branch(one, [target, scene_target(0)])["cls"]
    torch.manual_seed(0)
    plain = [replace(t, labels=torch.zeros_like(t.labels)) for t in (target, scene_target(0))]
    branch.class_agnostic = False
    assert torch.equal(branch(one, plain)["cls"], loss) and int(target.labels.max()) > 0


def test_images_apart_are_the_mean_of_their_losses():
    made, targets = scene_output(3), [scene_target(6), scene_target(0), scene_target(2, seed=5)]
    losses = {"cls": Focal(normalizer="local"), "box": IoULoss("giou", normalizer="local")}
    apart = DenseBranch(MaxIoU(), losses, apart=True)(made, targets)
    singles = [
        DenseBranch(MaxIoU(), losses)(
            DenseOutput(made.logits[i : i + 1], made.deltas[i : i + 1], made.boxes[i : i + 1], made.priors), [t]
        )
        for i, t in enumerate(targets)
    ]
    for name in losses:
        torch.testing.assert_close(apart[name], torch.stack([s[name] for s in singles]).mean())
    together = DenseBranch(MaxIoU(), losses)(made, targets)
    assert not torch.allclose(together["cls"], apart["cls"], rtol=1e-3)
