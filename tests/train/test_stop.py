"""A signal: the step is finished, a checkpoint is saved, exit code 75, and the run goes on with the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bifocals.train import EXIT_CODE, Run, fit, read_log
from bifocals.train.checkpoint import list_checkpoints
from bifocals.train.validation import Validation
from tests.train.scenario import Job, assert_equal_runs, draw_set, finish
from tests.train.stand_in import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("set"), train=24, val=6)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    job = Job({"data": data, "epochs": 2}, Run(str(folder / "run"), workers=0, log_every=2))
    assert finish(job, folder / "out.txt") == 0, (folder / "out.txt").read_text()
    return folder / "run"


@pytest.mark.parametrize(("event", "step", "workers"), [
    ("term", 3, 0), ("int", 4, 1), ("term_group", 3, 2), ("term", 6, 0),
])  # fmt: skip
def test_a_signal_saves_and_the_run_goes_on(data, straight, tmp_path, event, step, workers):
    """Step 6 ends an epoch: its evaluation is due, and is made up for by the resumed run."""
    job = Job({"data": data, "epochs": 2}, Run(str(tmp_path / "run"), workers=workers, log_every=2))
    output = tmp_path / "out.txt"
    assert finish(replace(job, at_step=step, event=event), output) == EXIT_CODE == 75, output.read_text()
    assert list_checkpoints(tmp_path / "run")[-1][0] in (step, step + 1)
    assert "Traceback" not in output.read_text()
    assert finish(replace(job, run=replace(job.run, resume="auto")), output) == 0, output.read_text()
    assert_equal_runs(straight, tmp_path / "run")
    evaluations = [r["step"] for r in read_log(tmp_path / "run") if r["kind"] == "evaluation"]
    assert evaluations == [6, 12]


def test_each_step_is_in_the_log_once(data, tmp_path):
    job = Job({"data": data, "epochs": 2}, Run(str(tmp_path / "run"), workers=0, log_every=5))
    assert finish(replace(job, at_step=3, event="term"), tmp_path / "0.txt") == 75
    resumed = replace(job, run=replace(job.run, resume="auto"))
    assert finish(resumed, tmp_path / "1.txt") == 0
    records = [r for r in read_log(tmp_path / "run") if r["kind"] == "train"]
    last = [r["step"] for r in records]
    assert last == sorted(set(last))
    covered = [s for r in records for s in range(r["step"] - r["steps"] + 1, r["step"] + 1)]
    assert covered == list(range(1, 13))


def test_two_processes_stop_after_the_same_step(data, tmp_path):
    """Only rank 0 gets the signal; both save, and end with 75."""
    job = Job({"data": data, "epochs": 2}, Run(str(tmp_path / "run"), workers=0), ranks=2, at_step=2, event="term")
    output = tmp_path / "out.txt"
    assert finish(replace(job, signaled=(0,)), output) == 75, output.read_text()
    step = list_checkpoints(tmp_path / "run")[-1][0]
    assert step in (2, 3)
    resumed = replace(job, event="nothing", run=replace(job.run, resume="auto"))
    assert finish(resumed, output) == 0, output.read_text()
    sessions = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert [s["from_step"] for s in sessions] == [0, step]
    assert sessions[1]["hardware"]["processes"] == 2


@pytest.mark.parametrize("step", [6, 12])
def test_a_signal_that_ends_the_workers_of_an_evaluation(data, straight, tmp_path, step):
    """The checkpoint is saved without the evaluation, also the last one, and the resumed run makes up for it."""
    job = Job({"data": data, "epochs": 2}, Run(str(tmp_path / "run"), workers=0, log_every=2))
    output = tmp_path / "out.txt"
    assert finish(replace(job, at_step=step, event="lose_evaluation"), output) == 75, output.read_text()
    assert list_checkpoints(tmp_path / "run")[-1][0] == step
    assert finish(replace(job, run=replace(job.run, resume="auto")), output) == 0, output.read_text()
    assert_equal_runs(straight, tmp_path / "run")


def test_another_error_of_an_evaluation_is_no_stop(data, tmp_path, monkeypatch):
    def broken(self, workdir):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Validation, "__call__", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=0))
