"""Two processes with half the batch each are one process with the whole batch."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from bifocals.data import Input
from bifocals.networks import Backbone, Towers
from bifocals.structures import Batch, Target
from bifocals.train import Optim, Run, read_log
from bifocals.train.checkpoint import list_checkpoints, read_checkpoint
from bifocals.train.fit import communicating, micro_batches
from bifocals.train.weights import from_bytes
from tests.train.scenario import STAND_IN, Job, assert_equal_runs, draw_set, finish, last_record, last_tensors
from tests.train.stand_in import TinyDetector

STEPS = 10
OPTIM = Optim(lr=2e-3, batch_size=4, warmup_steps=3, ema=0.9)


def weights(workdir) -> dict[str, torch.Tensor]:
    return from_bytes(read_checkpoint(list_checkpoints(workdir)[-1][1]).files["model.safetensors"])


@pytest.mark.parametrize("empty", ["none", "a rank's", "all"])
def test_two_gloo_processes_equal_one(tmp_path, empty):
    """Images 0 to 19 in order of the stream; "a rank's": in many steps one rank has no object at all."""
    without = {"none": (), "a rank's": (*range(0, 20, 2), 1, 3, 5, 7), "all": tuple(range(20))}[empty]
    data = draw_set(tmp_path / "set", train=20, val=5, empty=without)
    arguments = {"data": data, "optim": OPTIM, "input": Input(64, 64), "epochs": 2}
    for ranks in (1, 2):
        run = Run(str(tmp_path / str(ranks)), workers=0, log_every=1)
        job = Job(arguments, run, f"{STAND_IN}:stateless", ranks=ranks)
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert last_record(tmp_path / "1")["step"] == STEPS
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    memory = [last_tensors(tmp_path / r)["state.safetensors:objective/0/branches.one2many.balance.seen"] for r in "12"]
    torch.testing.assert_close(memory[1], memory[0], rtol=1e-4, atol=1e-5)
    # They did learn, and the log of both says the same, evaluations over all ranks included.
    assert any((tensor - torch.zeros_like(tensor)).abs().max() > 1e-3 for tensor in one.values())
    logs = [read_log(tmp_path / ranks) for ranks in ("1", "2")]
    assert [(r["kind"], r["step"]) for r in logs[0]] == [(r["kind"], r["step"]) for r in logs[1]]
    for first, second in zip(*logs, strict=True):
        if first["kind"] == "train":
            assert second["raw"] == pytest.approx(first["raw"], abs=1e-4)
            assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3, abs=1e-5)
        else:
            assert second["num_images"] == first["num_images"] == 5


def test_each_rank_has_random_numbers_of_its_own(tmp_path):
    """Each drops out other channels, and a checkpoint holds the state of both."""
    data = draw_set(tmp_path / "set", train=20)
    job = Job({"data": data, "optim": OPTIM, "epochs": 1}, Run(str(tmp_path / "run"), workers=0, log_every=1), ranks=2)
    assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    tensors = last_tensors(tmp_path / "run")
    first, second = (tensors[f"state.safetensors:random/{r}/torch"] for r in (0, 1))
    assert not torch.equal(first, second)


def test_two_processes_resume_bit_for_bit(tmp_path):
    """Also the state that differs between them: random numbers, and the running mean that a loss keeps of its own."""
    data = draw_set(tmp_path / "set", train=20)
    arguments = {"data": data, "optim": OPTIM, "epochs": 2}
    for name in ("straight", "killed"):
        job = Job(arguments, Run(str(tmp_path / name), workers=0, save_every=3), ranks=2)
        if name == "killed":
            assert finish(replace(job, at_step=5, event="kill"), tmp_path / "out.txt") == -signal.SIGKILL
            job = replace(job, run=replace(job.run, resume="auto"))
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    assert_equal_runs(tmp_path / "straight", tmp_path / "killed")


def test_accumulation_averages_micro_batches(tmp_path):
    """A set of one image: every micro-batch has the gradient of the whole batch, and so has their mean."""
    data = draw_set(tmp_path / "set", train=1)
    optim = Optim("sgd", lr=0.05, batch_size=4, warmup_steps=0, clip_norm=None, schedule="constant")
    found = {}
    for ranks, accumulate in ((1, 1), (1, 2), (1, 4), (2, 2)):
        folder = tmp_path / f"{ranks}-{accumulate}"
        job = Job({"data": data, "optim": optim, "input": Input(64, 64, "none"), "epochs": 40},
                  Run(str(folder), workers=0, accumulate=accumulate, save_every=100), f"{STAND_IN}:stateless",
                  ranks=ranks)
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
        assert last_record(folder)["step"] == STEPS
        found[ranks, accumulate] = weights(folder)
    torch.manual_seed(0)
    start = TinyDetector(2, 0.0, norm=False).state_dict()
    assert any((found[1, 1][name] - tensor).abs().max() > 1e-2 for name, tensor in start.items())
    for other in ((1, 2), (1, 4), (2, 2)):
        for name, tensor in found[1, 1].items():
            torch.testing.assert_close(found[other][name], tensor, rtol=0, atol=1e-5)


def test_gradients_travel_with_the_last_micro_batch_alone():
    class Recorder:
        quiet = 0

        def no_sync(self):
            self.quiet += 1
            return nullcontext()

    state = SimpleNamespace(ddp=Recorder())
    for last in (False, False, True):
        with communicating(state, last):
            pass
    assert state.ddp.quiet == 2
    batch = Batch(torch.arange(4 * 3).view(4, 3, 1, 1).to(torch.uint8), tuple(target(i) for i in range(4)))
    parts = list(micro_batches(batch, 2))
    assert [(part.image_ids, last) for part, last in parts] == [([0, 1], False), ([2, 3], True)]
    assert torch.equal(torch.cat([part.images for part, _ in parts]), batch.images)


def target(image_id: int) -> Target:
    none = torch.zeros(0, 4)
    return Target(none, none[:, 0].long(), none[:, 0].bool(), (1, 1), (1, 1), image_id)


# AdamW divides a gradient by its own size: in a network of millions of weights a few entries have gradients that are
# all rounding, and they move by the full rate, either way. SGD shows whether the gradients themselves are equal.
SGD = Optim("sgd", lr=1e-3, batch_size=4, warmup_steps=0, clip_norm=10.0, backbone_lr_factor=1.0)


@pytest.mark.parametrize("recipe", ["date", pytest.param("fcos", marks=pytest.mark.slow)])
def test_recipes_of_two_processes_equal_one(tmp_path, recipe):
    """With frozen batch norms, as from pretrained weights; most images have no objects, often all of a rank."""
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "body.pth")
    data = draw_set(tmp_path / "set", train=20, empty=(*range(0, 20, 2), 1, 3, 5, 7))
    arguments = {
        "data": data, "optim": SGD, "input": Input(64, 64), "epochs": 2, "towers": Towers(channels=64, depth=2),
        "backbone": Backbone("resnet18", "pytorch", str(tmp_path / "body.pth")),
    }
    for ranks in (1, 2):
        job = Job(arguments, Run(str(tmp_path / str(ranks)), workers=0, log_every=1, save_every=10),
                  f"bifocals.recipes.{recipe}:{recipe}", ranks=ranks)
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
        assert "Warning" not in (tmp_path / "out.txt").read_text()
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert last_record(tmp_path / "1")["step"] == STEPS
    body = torch.load(tmp_path / "body.pth", weights_only=True)
    moved = (one["backbone.stages.4.1.conv2.weight"] - body["layer4.1.conv2.weight"]).abs().max()
    assert moved > 1e-4
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
