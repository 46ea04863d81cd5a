"""Killed and resumed, a run ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bifocals.data import Data, Input
from bifocals.networks import Backbone, Towers
from bifocals.train import Optim, Run, read_log
from bifocals.train.checkpoint import latest_checkpoint, list_checkpoints, save_checkpoint
from tests.train.scenario import CONTEXT, Job, assert_equal_runs, draw_set, finish, kill_at_fsync, last_tensors

TOTAL = 24
"""Steps of the stand-in: 4 epochs of 24 images in batches of 4, evaluated after each."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=24, val=6)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    job = Job({"data": data}, Run(str(folder / "run"), workers=0, log_every=2, save_every=4))
    assert finish(job, folder / "out.txt") == 0, (folder / "out.txt").read_text()
    return folder / "run"


def killed_and_resumed(job: Job, tmp_path: Path, kills: list[tuple[int, str, float, int]]) -> None:
    """Runs a job through its kills, each later than the one before, and then to its end."""
    for i, (step, event, delay, fsync) in enumerate(kills):
        output = tmp_path / f"{i}.txt"
        code = finish(replace(job, at_step=step, event=event, delay=delay, fsync=fsync), output)
        assert code == -signal.SIGKILL, output.read_text()
        job = replace(job, run=replace(job.run, resume="auto"))
    output = tmp_path / "last.txt"
    assert finish(job, output) == 0, output.read_text()


def draw_kills(seed: int, total: int, count: int = 5) -> list[tuple[int, str, float, int]]:
    """`count` kills at random steps, at random moments of them; one of them during a checkpoint write."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, total - 4), count))
    during = draw.randrange(count)
    events = ["kill_write" if i == during else draw.choice(["kill", "kill_alone"]) for i in range(count)]
    return [(step, event, draw.random() * 0.05, draw.randint(2, 9)) for step, event in zip(steps, events, strict=True)]


def test_the_stand_in_has_all_the_state_that_could_be_lost(straight):
    names = last_tensors(straight)
    for part in ("ema.safetensors:predict.weight", "ema.safetensors:backbone.1.running_mean",
                 "state.safetensors:optimizer/exp_avg_sq/backbone.0.weight",
                 "state.safetensors:objective/0/branches.one2many.stateful.cls.mean",
                 "state.safetensors:objective/0/branches.one2many.balance.count", "state.safetensors:random/0/torch"):
        assert part in names
    assert names["state.safetensors:objective/0/branches.one2many.balance.count"] == TOTAL
    assert [step for step, _ in list_checkpoints(straight)] == [20, 24]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_two_kills_one_of_them_during_a_write(data, straight, tmp_path, workers):
    job = Job({"data": data}, Run(str(tmp_path / "run"), workers=workers, log_every=2, save_every=4))
    killed_and_resumed(job, tmp_path, [(5, "kill", 0.01, 0), (10, "kill_write", 0.0, 4 + workers)])
    assert_equal_runs(straight, tmp_path / "run")
    records = read_log(tmp_path / "run")
    strip = [{k: v for k, v in r.items() if not k.startswith("images_per_s")} for r in records]
    assert strip == [{k: v for k, v in r.items() if not k.startswith("images_per_s")} for r in read_log(straight)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_five_kills_of_the_stand_in(data, straight, tmp_path, workers, seed):
    job = Job({"data": data}, Run(str(tmp_path / "run"), workers=workers, log_every=2, save_every=4))
    killed_and_resumed(job, tmp_path, draw_kills(100 * workers + seed, TOTAL))
    assert_equal_runs(straight, tmp_path / "run")


def test_a_run_killed_before_its_first_checkpoint_starts_again(data, straight, tmp_path):
    job = Job({"data": data}, Run(str(tmp_path / "run"), workers=0, log_every=2, save_every=4))
    killed_and_resumed(job, tmp_path, [(2, "kill", 0.0, 0)])
    assert "holds no finished checkpoint: starting at step 0" in (tmp_path / "last.txt").read_text()
    assert_equal_runs(straight, tmp_path / "run")


def test_a_flipped_byte_falls_back_and_the_run_ends_the_same(data, straight, tmp_path):
    job = Job({"data": data}, Run(str(tmp_path / "run"), workers=0, log_every=2, save_every=4))
    assert finish(replace(job, at_step=13, event="kill"), tmp_path / "0.txt") == -signal.SIGKILL
    step, folder = list_checkpoints(tmp_path / "run")[-1]
    path = folder / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    resumed = replace(job, run=replace(job.run, resume="auto"))
    assert finish(resumed, tmp_path / "1.txt") == 0
    said = (tmp_path / "1.txt").read_text()
    assert f"damaged checkpoint: {path}: expected sha256 " in said
    assert f"Falling back to step-{step - 4:08d}" in said
    assert f"at step {step - 4} of {TOTAL}" in said
    assert (folder.parent / f"damaged-{folder.name}" / "state.safetensors").read_bytes() == bytes(content)
    assert_equal_runs(straight, tmp_path / "run")


def test_all_damaged_is_an_error(data, tmp_path):
    job = Job({"data": data}, Run(str(tmp_path / "run"), workers=0, log_every=2, save_every=4))
    assert finish(replace(job, at_step=9, event="kill"), tmp_path / "0.txt") == -signal.SIGKILL
    for _, folder in list_checkpoints(tmp_path / "run"):
        (folder / "model.safetensors").write_bytes(b"")
    assert finish(replace(job, run=replace(job.run, resume="auto")), tmp_path / "1.txt") == 1
    said = (tmp_path / "1.txt").read_text()
    assert "DamagedCheckpoint" in said
    assert "all damaged" in said
    assert len(list_checkpoints(tmp_path / "run")) == 2


def test_a_finished_run_stays_as_it_is(data, straight, tmp_path):
    before = {p: p.read_bytes() for p in straight.rglob("*") if p.is_file() and p.name != "run.json"}
    job = Job({"data": data}, Run(str(straight), workers=0, log_every=2, save_every=4, resume="auto"))
    assert finish(job, tmp_path / "out.txt") == 0
    assert before == {p: p.read_bytes() for p in straight.rglob("*") if p.is_file() and p.name != "run.json"}
    results = json.loads((straight / "run.json").read_text())["results"]
    assert results["step"] == TOTAL
    assert len(json.loads((straight / "run.json").read_text())["sessions"]) == 2


def write_and_die(workdir: str, number: int) -> None:
    os.setpgid(0, 0)
    kill_at_fsync(number)
    save_checkpoint(Path(workdir), 3, {"model.safetensors": b"new" * 1000, "state.json": b"{}"})
    os._exit(0)


def test_killed_at_every_fsync_of_a_write(tmp_path):
    """The folder holds whole checkpoints alone, the old ones or also the new one, and the next write cleans up."""
    ended = []
    for number in range(1, 9):
        workdir = tmp_path / str(number)
        workdir.mkdir()
        for step in (1, 2):
            save_checkpoint(workdir, step, {"model.safetensors": b"old" * 1000, "state.json": b"{}"})
        process = CONTEXT.Process(target=write_and_die, args=(str(workdir), number))
        process.start()
        process.join(60)
        ended.append(process.exitcode)
        found = [step for step, _ in list_checkpoints(workdir)]
        assert found in ([1, 2], [1, 2, 3], [2, 3])
        latest = latest_checkpoint(workdir)
        assert latest is not None
        assert latest.step == found[-1]
        save_checkpoint(workdir, 4, {"state.json": b"{}"})
        assert not list((workdir / "checkpoints").glob(".*"))
    assert -signal.SIGKILL in ended
    assert ended[-1] == 0


def recipe_job(recipe: str, data: Data, workdir: Path, workers: int, epochs: float) -> Job:
    """A real recipe on a tiny body: random MobileNetV2 that learns, 64x64 pixels, batches of 2."""
    arguments = {
        "data": data, "input": Input(64, 64), "backbone": Backbone("mobilenet_v2", "pytorch", "none"), "epochs": epochs,
        "towers": Towers(channels=64, depth=2),
        "optim": Optim(lr=1e-4, batch_size=2, warmup_steps=4, ema=0.9),
    }
    run = Run(str(workdir), workers=workers, log_every=1, save_every=3, eval_every=0)
    return Job(arguments, run, f"bifocals.recipes.{recipe}:{recipe}")


@pytest.fixture(scope="module")
def straight_recipe(data, tmp_path_factory) -> Callable[[str, float], Path]:
    """The work directory of a recipe's run that is left alone, once for each recipe."""
    done: dict[tuple[str, float], Path] = {}

    def run(recipe: str, epochs: float) -> Path:
        if (recipe, epochs) not in done:
            folder = tmp_path_factory.mktemp(recipe)
            output = folder / "out.txt"
            assert finish(recipe_job(recipe, data, folder / "run", 0, epochs), output) == 0, output.read_text()
            done[recipe, epochs] = folder / "run"
        return done[recipe, epochs]

    return run


@pytest.mark.parametrize(("recipe", "workers"), [("fcos", 0), ("date", 1)])
def test_recipes_resume_bit_for_bit(data, straight_recipe, tmp_path, recipe, workers):
    job = recipe_job(recipe, data, tmp_path / "run", workers, epochs=0.5)
    killed_and_resumed(job, tmp_path, [(4, "kill", 0.05, 0), (5, "kill_write", 0.0, 3)])
    assert_equal_runs(straight_recipe(recipe, 0.5), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("recipe", ["fcos", "date"])
def test_five_kills_of_recipes(data, straight_recipe, tmp_path, recipe, workers):
    total, epochs = 24, 2.0
    kills = draw_kills(1000 + workers + 10 * (recipe == "date"), total)
    killed_and_resumed(recipe_job(recipe, data, tmp_path / "run", workers, epochs), tmp_path, kills)
    assert list_checkpoints(tmp_path / "run")[-1][0] == total
    assert_equal_runs(straight_recipe(recipe, epochs), tmp_path / "run")
