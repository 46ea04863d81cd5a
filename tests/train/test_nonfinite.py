"""A loss that is not finite stops the run, names its images, and is in no checkpoint."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace

import pytest
import torch
from torch import nn

from bifocals.objective import Losses
from bifocals.structures import Batch
from bifocals.train import Run, State, fit, load, supervise
from bifocals.train import window as window_module
from bifocals.train.checkpoint import list_checkpoints, read_checkpoint
from bifocals.train.weights import from_bytes
from bifocals.train.window import Window
from tests.train.scenario import draw_set
from tests.train.stand_in import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("set"), train=24, val=4)


def poisoned(image_id: int, value: float = float("nan")):
    """The usual step, with one loss spoiled in the batch that holds an image."""
    def step(state: State, batch: Batch) -> Losses:
        losses = supervise(state, batch)
        if image_id not in batch.image_ids:
            return losses
        spoil = {"one2many/box": losses.raw["one2many/box"] * value}
        return Losses({**losses.raw, **spoil}, {**losses.weighted, **spoil})

    return step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_run_stops_with_ids_and_raw_losses(data, tmp_path, value):
    run = Run(str(tmp_path / "run"), workers=0, log_every=2, save_every=1)
    with pytest.raises(FloatingPointError) as caught:
        fit(tiny(data=data, epochs=2), run, step=poisoned(9, value))
    message = str(caught.value)
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert 9 in report["ranks"][0]["image_ids"]
    assert len(report["ranks"][0]["image_ids"]) == 4
    assert report["ranks"][0]["raw"]["one2many/box"] in ("nan", "inf")
    assert isinstance(report["ranks"][0]["raw"]["one2many/cls"], float)
    for part in (f"step {report['step']}", "one2many/box", "one2many/cls", str(report["ranks"][0]["image_ids"])):
        assert part in message
    assert "\n" not in message
    saved = list_checkpoints(tmp_path / "run")
    assert [s for s, _ in saved] == [s for s in (report["step"] - 2, report["step"] - 1) if s > 0]
    for _, folder in saved:
        files = read_checkpoint(folder).files
        assert all(t.isfinite().all() for t in from_bytes(files["model.safetensors"]).values())


def test_where_reading_is_free_no_step_is_taken_after_it(data, tmp_path):
    """On a CPU each step is checked before its gradients reach the weights."""
    taken = []
    run = Run(str(tmp_path / "run"), workers=0, log_every=100, save_every=100)
    with pytest.raises(FloatingPointError):
        fit(tiny(data=data, epochs=1), run, step=poisoned(9), on_step=lambda state: taken.append(state.step))
    assert taken == list(range(1, json.loads((tmp_path / "run" / "nonfinite.json").read_text())["step"]))


def test_a_loader_with_workers_ends_with_the_run(data, tmp_path):
    with pytest.raises(FloatingPointError):
        fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=2), step=poisoned(9))
    assert multiprocessing.active_children() == []


def test_gradients_that_are_not_finite_stop_the_run_too(data, tmp_path):
    """sqrt(0): a finite loss, an infinite gradient."""
    def step(state: State, batch: Batch) -> Losses:
        losses = supervise(state, batch)
        root = (state.network.predict.bias.sum() * 0).sqrt()
        return Losses(losses.raw, {**losses.weighted, "one2many/box": losses.weighted["one2many/box"] + root})

    with pytest.raises(FloatingPointError, match="gradient norm of (nan|inf)"):
        fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=0), step=step)


def test_where_reading_waits_a_save_still_checks_before(data, tmp_path, monkeypatch):
    """As on a GPU: the losses of a log period are read together, and the first bad step of it is named."""
    monkeypatch.setattr(window_module.Window, "check_last", lambda self, workdir: None)
    run = Run(str(tmp_path / "run"), workers=0, log_every=100, save_every=6)
    with pytest.raises(FloatingPointError):
        fit(tiny(data=data, epochs=1), run, step=poisoned(9))
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert 1 <= report["step"] <= 6
    assert 9 in report["ranks"][0]["image_ids"]
    assert list_checkpoints(tmp_path / "run") == []


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    def spoil(state: State) -> None:
        if state.step == 3:
            with torch.no_grad():
                state.network.predict.weight[0, 0, 0, 0] = float("nan")

    run = Run(str(tmp_path / "run"), workers=0, save_every=3)
    with pytest.raises(FloatingPointError, match=r"step 3 is not written: its weight predict\.weight is not finite"):
        fit(tiny(data=data, epochs=1), run, on_step=spoil)
    assert list_checkpoints(tmp_path / "run") == []


def test_a_stopped_run_goes_on_from_before(data, tmp_path):
    run = Run(str(tmp_path / "run"), workers=0, save_every=1)
    with pytest.raises(FloatingPointError):
        fit(tiny(data=data, epochs=1), run, step=poisoned(9))
    workdir = fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=0, save_every=1, resume="auto"))
    assert load(workdir, "last", experiment=tiny(data=data)).step == 6


def test_the_first_bad_step_of_a_window_is_named(tmp_path):
    window = Window(images_per_step=2)
    window.start()
    for step, value in ((1, 1.0), (2, float("inf")), (3, float("nan"))):
        window.add_micro(Losses({"a": torch.tensor(value)}, {"a": torch.tensor(1.0)}))
        window.add_step(step, [10 * step, 10 * step + 1], torch.tensor(0.5))
    with pytest.raises(FloatingPointError, match=r"step 2 .*a inf .*images \[20, 21\]"):
        window.read(tmp_path)


def test_a_window_averages_steps_and_micro_batches(tmp_path):
    window = Window(images_per_step=4)
    window.start()
    for step, values in ((1, (1.0, 3.0)), (2, (5.0, 7.0))):
        for value in values:
            window.add_micro(Losses({"a": torch.tensor(value)}, {"a": torch.tensor(10 * value)}))
        raw = window.add_step(step, [1, 2, 3, 4], torch.tensor(float(step)))
        assert raw["a"].item() == sum(values) / 2
    record, _ = window.read(tmp_path)
    assert record["steps"] == 2
    assert (record["raw"], record["weighted"], record["loss"], record["grad_norm"]) == ({"a": 4.0}, {"a": 40.0}, 40.0,
                                                                                       1.5)
    assert len(window) == 0


def test_losses_that_change_their_names_are_refused():
    window = Window(images_per_step=1)
    window.add_micro(Losses({"a": torch.ones(())}, {"a": torch.ones(())}))
    with pytest.raises(ValueError, match=r"the same losses in each step, got \['b'\] after \['a'\]"):
        window.add_micro(Losses({"b": torch.ones(())}, {"b": torch.ones(())}))


def test_an_objective_with_parameters_is_refused(data, tmp_path):
    experiment = tiny(data=data)

    def objective():
        made = experiment.objective()
        made.temperature = nn.Parameter(torch.ones(()))
        return made

    with pytest.raises(ValueError, match=r"objective without parameters.*\['temperature'\]"):
        fit(replace(experiment, objective=objective), Run(str(tmp_path / "run"), workers=0))
