"""JSON lines hold each step once; other loggers are imported when asked for."""

from __future__ import annotations

import importlib
import io
import json
import sys
import types

import pytest
from rich.console import Console

from bifocals.train import Run, fit
from bifocals.train import log as log_module
from bifocals.train.log import Log, cut_log, flatten, log_path, read_log
from tests.train.scenario import draw_set
from tests.train.stand_in import tiny

RECORD = {"step": 10, "epoch": 0.5, "steps": 10, "lr": 1e-3, "loss": 1.5, "raw": {"a/cls": 1.0},
          "weighted": {"a/cls": 1.5}, "grad_norm": 2.0, "images_per_s": 12.5}


def lines(*steps: int) -> bytes:
    return b"".join(json.dumps({"kind": "train", "step": s}).encode() + b"\n" for s in steps)


@pytest.mark.parametrize(("content", "kept"), [
    (lines(1, 2, 3, 4), [1, 2]), (lines(1, 2), [1, 2]), (lines(1) + b'{"kind": "tra', [1]), (lines(3), []),
    (lines(1, 2) + b'{"step": 2}', [1, 2]), (b"", []), (lines(1) + b"\xff\n" + lines(2), [1]),
])  # fmt: skip
def test_the_log_is_cut_back_to_a_step(tmp_path, content, kept):
    log_path(tmp_path).write_bytes(content)
    cut_log(tmp_path, 2)
    assert [record["step"] for record in read_log(tmp_path)] == kept


def test_cutting_no_log_is_nothing(tmp_path):
    cut_log(tmp_path, 2)
    assert not log_path(tmp_path).exists()


def test_lines_and_plain_text(tmp_path, capsys):
    log = Log(tmp_path, (), {}, 0, 100, active=True)
    log.train(RECORD, seconds=20.0)
    log.evaluation({"step": 10, "AP": 0.5, "per_class": {"red": {"AP": float("nan")}}}, "AP 0.5000")
    log.close()
    first, second = read_log(tmp_path)
    assert first == {"kind": "train", **RECORD}
    assert second == {"kind": "evaluation", "step": 10, "AP": 0.5, "per_class": {"red": {"AP": None}}}
    out = capsys.readouterr().out.splitlines()
    # 10 of 100 steps in 20 seconds: 180 seconds are left
    assert out == ["step 10/100 epoch 0.50 loss 1.5000 (a/cls 1.500) lr 1.00e-03 grad 2.00 12.5 images/s ETA 0:03:00",
                   "AP 0.5000"]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160)
    monkeypatch.setattr(log_module, "Console", lambda: console)
    log = Log(tmp_path, (), {}, 0, 100, active=True)
    log.train(RECORD, seconds=20.0)
    log.say("[a line]")
    log.close()
    shown = stream.getvalue()
    for part in ("10/100", "loss 1.5000", "12.5 images/s", "ETA 0:03:00", "[a line]"):
        assert part in shown


def test_other_ranks_are_silent(tmp_path, capsys):
    log = Log(tmp_path, ("wandb",), {}, 0, 100, active=False)
    log.train(RECORD, seconds=1.0)
    log.evaluation({"step": 10}, "text")
    log.say("hello")
    log.sync()
    log.close()
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_flatten_keeps_numbers_alone():
    assert flatten({"a": 1, "b": {"c": 2.5, "d": None, "e": "x"}, "f": True}) == {"a": 1.0, "b/c": 2.5}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_logger_says_what_to_install(tmp_path, monkeypatch, name):
    """Before the first step, and before anything is trained."""
    real = importlib.import_module

    def missing(module, *args):
        if module in ("torch.utils.tensorboard", "wandb", "mlflow"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(module, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    data = draw_set(tmp_path / "set", train=4)
    with pytest.raises(ValueError, match=rf"logger '{name}' to be installed.*pip install 'bifocals\[{name}\]'"):
        fit(tiny(data=data), Run(str(tmp_path / "run"), workers=0, loggers=(name,)))


def test_loggers_are_not_imported_unasked():
    assert "wandb" not in sys.modules
    assert "mlflow" not in sys.modules


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, ("tensorboard",), {}, 0, 100, active=True)
    log.train(RECORD, seconds=1.0)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "weighted/a/cls" in events.Tags()["scalars"]
    assert events.Scalars("weighted/a/cls")[0].value == 1.5


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    """A stand-in of the package: its init, log and finish, as its documentation has them."""
    started, logged = [], []

    class Handle:
        id = "abc123"

        def define_metric(self, name, step_metric):
            assert (name, step_metric) == ("*", "step")

        def log(self, numbers):
            logged.append(numbers)

        def finish(self):
            logged.append("finished")

    module = types.ModuleType("wandb")
    module.init = lambda **kwargs: started.append(kwargs) or Handle()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        log = Log(tmp_path, ("wandb",), {"recipe": "x"}, 0, 100, active=True)
        log.train(RECORD, seconds=1.0)
        log.close()
    assert [s["id"] for s in started] == [None, "abc123"]
    assert logged[0]["weighted/a/cls"] == 1.5
    assert logged[0]["step"] == 10
    assert logged[-1] == "finished"


def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    started, logged = [], []
    module = types.ModuleType("mlflow")
    info = types.SimpleNamespace(info=types.SimpleNamespace(run_id="run7"))
    module.start_run = lambda run_id=None: started.append(run_id) or info
    module.log_dict = lambda config, name: logged.append((name, config))
    module.log_metrics = lambda numbers, step: logged.append((step, numbers["weighted/a/cls"]))
    module.end_run = lambda: logged.append("end")
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for _ in range(2):
        log = Log(tmp_path, ("mlflow",), {"recipe": "x"}, 0, 100, active=True)
        log.train(RECORD, seconds=1.0)
        log.close()
    assert started == [None, "run7"]
    assert logged == [("run.json", {"recipe": "x"}), (10, 1.5), "end", (10, 1.5), "end"]
