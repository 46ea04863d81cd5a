"""Two processes with half the batch each are one process with the whole batch."""

from __future__ import annotations

import pytest
import torch

from bifocals.data import Input
from bifocals.train import Optim, Run, read_log
from bifocals.train.checkpoint import list_checkpoints, read_checkpoint
from bifocals.train.weights import from_bytes
from tests.train.scenario import STAND_IN, Job, draw_set, finish, last_record, last_tensors

STEPS = 10
OPTIM = Optim(lr=2e-3, batch_size=4, warmup_steps=3, ema=0.9)


def weights(workdir) -> dict[str, torch.Tensor]:
    return from_bytes(read_checkpoint(list_checkpoints(workdir)[-1][1]).files["model.safetensors"])


@pytest.mark.parametrize("empty", ["none", "a rank's", "all"])
def test_two_gloo_processes_equal_one(tmp_path, empty):
    """Images 0 to 19 in order of the stream; "a rank's": in many steps one rank has no object at all."""
    without = {"none": (), "a rank's": tuple(range(0, 20, 2)) + (1, 3, 5, 7), "all": tuple(range(20))}[empty]
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


def test_state_of_the_objective_is_equal_on_all_ranks_and_randomness_is_not(tmp_path):
    """The balancer observes losses averaged over ranks; each rank drops out other channels."""
    data = draw_set(tmp_path / "set", train=20)
    job = Job({"data": data, "optim": OPTIM, "epochs": 1}, Run(str(tmp_path / "run"), workers=0, log_every=1), ranks=2)
    assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    tensors = last_tensors(tmp_path / "run")
    record = read_log(tmp_path / "run")[-1]
    assert tensors["state.safetensors:objective/branches.one2many.balance.count"] == 5
    assert set(record["raw"]) == {"one2many/cls", "one2many/box"}
    first, second = (tensors[f"state.safetensors:random/{r}/torch"] for r in (0, 1))
    assert not torch.equal(first, second)


def test_accumulation_goes_through_the_same_images(tmp_path):
    """Two micro-batches of half the batch: as many steps, and nearly the same weights (each normalizes its own)."""
    data = draw_set(tmp_path / "set", train=16)
    for accumulate in (1, 2):
        job = Job({"data": data, "optim": OPTIM, "epochs": 2},
                  Run(str(tmp_path / str(accumulate)), workers=0, accumulate=accumulate, log_every=1),
                  f"{STAND_IN}:stateless")
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    distance = max((one[n] - two[n]).abs().max().item() for n in one)
    assert 0 < distance < 0.02
    logs = [[r["raw"]["one2many/box"] for r in read_log(tmp_path / a)] for a in ("1", "2")]
    assert logs[1][0] == pytest.approx(logs[0][0], rel=0.2)


def test_accumulation_over_ranks_is_accumulation_alone(tmp_path):
    """2 ranks x 2 micro-batches of one image: the all-reduce once a step changes nothing but rounding."""
    data = draw_set(tmp_path / "set", train=16)
    for ranks, accumulate in ((2, 2), (1, 4)):
        job = Job({"data": data, "optim": OPTIM, "epochs": 1.5},
                  Run(str(tmp_path / f"{ranks}"), workers=0, accumulate=accumulate, log_every=1),
                  f"{STAND_IN}:stateless", ranks=ranks)
        assert finish(job, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert max((one[n] - two[n]).abs().max().item() for n in one) < 0.02
