"""Learning rates by hand, and parameter groups merged by equal settings."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bifocals.train import Optim, build_optimizer, learning_rate_factor
from bifocals.train.ema import MovingAverage
from bifocals.train.optimizer import gradient_norm, set_learning_rate


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "deep": nn.Conv2d(4, 4, 3)})
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1))
        self.backbone["stem"].requires_grad_(False)


def test_warm_up_is_date_s():
    """lr * (0.001 + 0.999 * k / 1000) at iteration k."""
    optim = Optim(schedule="constant")
    for k, expected in ((0, 0.001), (1, 0.001999), (500, 0.5005), (999, 0.999001), (1000, 1.0), (5000, 1.0)):
        assert learning_rate_factor(optim, k, 87960) == pytest.approx(expected, rel=1e-12)


def test_steps_of_the_1x_schedule():
    """COCO: 7330 steps an epoch, a tenth at epoch 8 (step 58640) and at epoch 11 (step 80630)."""
    optim, total = Optim(), 12 * 7330
    for step, expected in ((58639, 1.0), (58640, 0.1), (80629, 0.1), (80630, 0.01), (87959, 0.01)):
        assert learning_rate_factor(optim, step, total) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("optim", "epochs", "images", "total", "drops"),
    [
        (Optim(), 12, 117_266, 87_950, (58_634, 80_621)),  # 1x on COCO: its images are no multiple of 16
        (Optim(), 12, 117_280, 12 * 7330, (8 * 7330, 11 * 7330)),
        (Optim(), 36, 117_280, 36 * 7330, (24 * 7330, 33 * 7330)),  # 3x: the same fractions
        (Optim.crowdhuman(), 32, 15_000, 30_000, (20_000, 25_000)),
        # As typed on a command line, rounded down.
        (Optim(milestones=(0.66666666, 0.83333333)), 32, 15_000, 30_000, (20_000, 25_000)),
    ],
)
def test_the_schedules_of_date(optim, epochs, images, total, drops):
    """The rate falls to a tenth at these steps and at no other; the length is what `fit` computes from epochs."""
    assert max(1, math.ceil(epochs * images / optim.batch_size - 1e-9)) == total
    factors = [learning_rate_factor(optim, step, total) for step in range(1000, total)]
    fallen = tuple(step + 1001 for step, (a, b) in enumerate(pairwise(factors)) if b < a)
    assert fallen == drops
    assert [factors[0], factors[drops[0] - 1000], factors[-1]] == pytest.approx([1, 0.1, 0.01])
    assert learning_rate_factor(optim, 500, total) == pytest.approx(0.001 + 0.999 * 0.5)


def test_presets_differ_from_the_defaults_in_the_schedule_alone():
    assert replace(Optim.crowdhuman(), milestones=Optim().milestones) == Optim()


def test_milestones_fall_on_whole_epochs_for_any_length():
    for per_epoch in range(1, 400):
        factors = [learning_rate_factor(Optim(warmup_steps=0), s, 12 * per_epoch)
                   for s in (8 * per_epoch - 1, 8 * per_epoch, 11 * per_epoch - 1, 11 * per_epoch)]
        assert factors == pytest.approx([1, 0.1, 0.1, 0.01])


def test_cosine_by_hand():
    optim = Optim(schedule="cosine", warmup_steps=0)
    assert [learning_rate_factor(optim, s, 8) for s in (0, 2, 4, 6)] == pytest.approx(
        [1.0, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2])


def test_poly_by_hand():
    """MoSegNAS: .01 (1 - it / 40000)^.9."""
    optim = Optim("sgd", lr=0.01, schedule="poly", warmup_steps=0)
    for step, expected in ((0, 1.0), (10_000, 0.75**0.9), (20_000, 0.5**0.9), (39_999, 40_000**-0.9)):
        assert learning_rate_factor(optim, step, 40_000) == pytest.approx(expected)
    assert learning_rate_factor(replace(optim, power=2.0), 10, 40) == pytest.approx(0.75**2)


def test_warm_up_multiplies_the_schedule():
    optim = Optim(schedule="step", milestones=(0.5,), warmup_steps=8, warmup_factor=0.5)
    assert learning_rate_factor(optim, 2, 80) == pytest.approx(0.5 + 0.5 * 2 / 8)
    late = Optim(schedule="step", milestones=(0.05,), warmup_steps=8, warmup_factor=0.5)
    assert learning_rate_factor(late, 6, 80) == pytest.approx(0.1 * (0.5 + 0.5 * 6 / 8))


def test_a_warm_up_is_at_most_a_tenth_of_the_run():
    optim = Optim(schedule="constant", warmup_steps=1000, warmup_factor=0.0)
    assert learning_rate_factor(optim, 30, 600) == pytest.approx(0.5)
    assert learning_rate_factor(optim, 60, 600) == 1.0
    assert learning_rate_factor(optim, 500, 88_000) == pytest.approx(0.5)


def test_groups_are_merged_and_frozen_parameters_left_out():
    network, optim = Parts(), Optim(lr=4e-4, backbone_lr_factor=0.1, weight_decay=1e-4)
    groups = build_optimizer(network, optim).param_groups
    assert [len(g["params"]) for g in groups] == [2, 6]
    assert [g["lr"] for g in groups] == pytest.approx([4e-5, 4e-4])
    assert [g["weight_decay"] for g in groups] == [1e-4, 1e-4]  # biases and norms too
    assert [g["betas"] for g in groups] == [(0.9, 0.999)] * 2
    assert not {"backbone.stem.weight", "backbone.stem.bias"} & {n for g in groups for n in g["param_names"]}


def test_equal_settings_are_one_group():
    assert len(build_optimizer(Parts(), Optim(backbone_lr_factor=1.0)).param_groups) == 1


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_rates_reach_the_groups(name):
    optim = Optim(name, lr=0.4, warmup_steps=10, warmup_factor=0.0, schedule="constant")
    optimizer = build_optimizer(Parts(), optim)
    assert set_learning_rate(optimizer, optim, 5, 100) == pytest.approx(0.2)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.2])
    assert type(optimizer).__name__.lower() == name


def test_one_adamw_step_by_hand():
    """p - lr * wd * p - lr * m / (sqrt(v) + eps), and m / sqrt(v) is the gradient's sign at the first step."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    optim = Optim(lr=0.1, weight_decay=0.5, warmup_steps=0, schedule="constant")
    optimizer = build_optimizer(network, optim)
    set_learning_rate(optimizer, optim, 0, 1)
    network(torch.tensor([[3.0]])).sum().backward()
    optimizer.step()
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-6)


def test_the_head_learns_at_its_own_rate_and_vectors_need_not_decay():
    network = Parts()
    optim = Optim("sgd", lr=0.01, backbone_lr_factor=1.0, head_lr_factor=10.0, weight_decay=5e-4, decay_norms=False,
                  schedule="constant", warmup_steps=0)
    optimizer = build_optimizer(network, optim)
    groups = {(g["base_lr"], g["weight_decay"]): {tuple(p.shape) for p in g["params"]}
              for g in optimizer.param_groups}
    assert groups == {(0.01, 5e-4): {(4, 4, 3, 3)}, (0.01, 0.0): {(4,)}, (0.1, 5e-4): {(4, 4, 3, 3), (1, 4, 1, 1)},
                      (0.1, 0.0): {(4,), (1,)}}
    assert set_learning_rate(optimizer, replace(optim, schedule="poly", power=1.0), 1, 2) == pytest.approx(0.005)
    assert {g["lr"] for g in optimizer.param_groups} == {0.005, 0.05}
    # Without a gradient, decay alone moves a weight: by lr * decay of itself.
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for name, p in network.named_parameters():
        rate = 0.05 if name.startswith("head.") else 0.005
        moved = 1 - rate * 5e-4 if p.requires_grad and p.ndim > 1 else 1
        torch.testing.assert_close(p.detach(), before[name] * moved)


def test_gradient_norm_is_of_all_gradients_together():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([2.0, 3.0]), torch.tensor([6.0])
    assert gradient_norm([a, b]).item() == pytest.approx(7.0)


def test_a_network_that_cannot_learn_is_refused():
    with pytest.raises(ValueError, match="parameters that learn, got Linear with none"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False), Optim())


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "adam"}, "name to be one of"), ({"lr": 0.0}, "lr to be a positive number, got 0.0"),
    ({"lr": float("nan")}, "lr"), ({"clip_norm": -1.0}, "clip_norm"), ({"batch_size": 0}, "batch_size"),
    ({"milestones": (8, 11)}, "fractions of training"), ({"warmup_factor": 2.0}, "warmup_factor"),
    ({"ema": 1.0}, "ema"), ({"schedule": "linear"}, "schedule"), ({"power": 0.0}, "power"),
    ({"weight_decay": -0.1}, "weight_decay"), ({"head_lr_factor": -1.0}, "head_lr_factor"),
])  # fmt: skip
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Optim(**change)


def test_the_average_by_hand():
    """The first update copies; then decay * average + (1 - decay) * weight, statistics of batch norms too."""
    network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1, bias=False))
    average = MovingAverage(network, 0.75)
    steps = ((4.0, 8.0, 4.0, 8.0), (8.0, 0.0, 5.0, 6.0), (1.0, 2.0, 4.0, 5.0))
    for weight, mean, expected_weight, expected_mean in steps:
        nn.init.constant_(network[1].weight, weight)
        network[0].running_mean.fill_(mean)
        network[0].num_batches_tracked += 1
        average.update_parameters(network)
        assert average.module[1].weight.item() == expected_weight
        assert average.module[0].running_mean.item() == expected_mean
    assert int(average.n_averaged) == int(average.module[0].num_batches_tracked) == 3
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_is_torch_s_own():
    """Bit for bit what `AveragedModel` with torch's decay makes of floating point weights."""
    network = nn.Linear(5, 7)
    ours = MovingAverage(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(5):
        with torch.no_grad():
            network.weight += torch.randn_like(network.weight)
        ours.update_parameters(network)
        theirs.update_parameters(network)
    assert torch.equal(ours.module.weight, theirs.module.weight)
    assert torch.equal(ours.n_averaged, theirs.n_averaged)
