"""Branches, balancers and the objective."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bifocals.assign import FCOS, POTO
from bifocals.balance import Fixed
from bifocals.check import check_balancer
from bifocals.check.scene import scene_output, scene_target
from bifocals.losses import L1, Focal, IoULoss
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Match

TARGETS = [scene_target(4), scene_target(0), scene_target(3, seed=9)]


def two_branches(**options) -> Objective:
    return Objective({
        "one2one": DenseBranch(POTO(), {"cls": Focal(), "giou": IoULoss("giou")}, Fixed({"cls": 2.0})),
        "one2many": DenseBranch(FCOS(), {"cls": Focal()}, **options),
    })


def outputs() -> dict:
    return {"one2one": scene_output(3, 1), "one2many": scene_output(3, 2)}


def test_keys_weights_and_total():
    losses = two_branches(weight=0.5)(outputs(), TARGETS)
    assert list(losses.raw) == ["one2one/cls", "one2one/giou", "one2many/cls"]
    factors = {k: float((losses.weighted[k] / losses.raw[k]).detach()) for k in losses.raw}
    assert factors == pytest.approx({"one2one/cls": 2.0, "one2one/giou": 1.0, "one2many/cls": 0.5})
    torch.testing.assert_close(losses.total, sum(losses.weighted.values()))


def test_two_branches_may_read_one_output():
    objective = two_branches(source="one2one")
    losses = objective({"one2one": outputs()["one2one"]}, TARGETS)
    assert set(losses.raw) == {"one2one/cls", "one2one/giou", "one2many/cls"}


def test_a_missing_output_is_named():
    with pytest.raises(ValueError, match=r"branch 'one2many' reads output 'one2many', but .* gives \['one2one'\]"):
        two_branches()({"one2one": outputs()["one2one"]}, TARGETS)


def test_fixed_names_an_unknown_loss():
    branch = DenseBranch(FCOS(), {"cls": Focal()}, Fixed({"bbox": 2.0}))
    with pytest.raises(ValueError, match=r"Fixed weights name \['bbox'\], but the branch has losses \['cls'\]"):
        Objective({"one2many": branch})(outputs(), TARGETS)


def test_crowd_regions_do_not_supervise():
    crowd = replace(TARGETS[0], crowd=torch.tensor([False, True, False, True]))
    keep = torch.tensor([0, 2])
    without = replace(TARGETS[0], boxes=TARGETS[0].boxes[keep], labels=TARGETS[0].labels[keep],
                      crowd=torch.zeros(2, dtype=torch.bool))
    ours = two_branches()(outputs(), [crowd, *TARGETS[1:]]).total
    torch.testing.assert_close(ours, two_branches()(outputs(), [without, *TARGETS[1:]]).total)


def test_a_batch_is_the_mean_of_its_images_by_positives():
    objective = two_branches()
    both = outputs()
    whole = objective(both, TARGETS).raw["one2one/giou"] * 7  # 4 + 3 objects
    parts = sum(
        objective({k: replace(o, logits=o.logits[i : i + 1], boxes=o.boxes[i : i + 1], deltas=o.deltas[i : i + 1],
                              quality=o.quality[i : i + 1]) for k, o in both.items()}, [TARGETS[i]]
                  ).raw["one2one/giou"] * max(len(TARGETS[i].labels), 1)
        for i in range(3)
    )
    torch.testing.assert_close(whole, parts)


class Momentum(nn.Module):
    """A balancer with state, as the adaptive ones have it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, raw):
        return {n: v / self.mean for n, v in raw.items()}

    def observe(self, raw):
        self.mean.lerp_(torch.stack(list(raw.values())).mean(), 0.5)


class Warm(nn.Module):
    """A loss with state and a clock."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.at = (0, 1)

    def forward(self, matched):
        self.calls += 1
        return matched.logits.square().sum() * self.at[0] / self.at[1]

    def set_step(self, step, total):
        self.at = (step, total)


def test_state_is_saved_and_the_clock_reaches_the_parts():
    def make() -> Objective:
        return Objective({"one2one": DenseBranch(POTO(), {"warm": Warm()}, Momentum())})

    objective = make()
    objective.set_step(5, 10)
    losses = objective(outputs(), TARGETS)
    objective.observe(losses.raw)
    assert losses.raw["one2one/warm"] > 0
    state = objective.state_dict()
    assert {k.rsplit(".", 1)[-1] for k in state} == {"calls", "mean"}
    other = make()
    other.load_state_dict(state)
    other.set_step(5, 10)
    torch.testing.assert_close(other(outputs(), TARGETS).total, objective(outputs(), TARGETS).total)


def test_any_callable_assigns():
    def first(priors, target, prediction):
        gt = torch.arange(len(target.labels))
        return Match(gt, gt)

    losses = Objective({"one2one": DenseBranch(first, {"l1": L1()})})(outputs(), TARGETS)
    assert losses.total > 0


def test_balancer_contracts():
    assert "passes gradient" in check_balancer(lambda: Fixed({"cls": 2.0}))
    assert "its state dict holds its state" in check_balancer(Momentum)

    class Forgets(Momentum):
        def __init__(self):
            super().__init__()
            self.seen = 1.0

        def forward(self, raw):
            return {n: v * self.seen for n, v in raw.items()}

        def observe(self, raw):
            self.seen += 1

    with pytest.raises(ValueError, match="after its state was saved and loaded"):
        check_balancer(Forgets)


def test_an_objective_without_branches_is_refused():
    with pytest.raises(ValueError, match="at least one branch"):
        Objective({})
    with pytest.raises(ValueError, match="at least one loss"):
        DenseBranch(FCOS(), {})
