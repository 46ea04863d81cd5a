"""What a run says: JSON lines always, a progress bar on a terminal, other loggers when asked."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .durable import replace_file
from .loggers import Logger, open_logger


def log_path(workdir: Path) -> Path:
    return workdir / "log.jsonl"


def cut_log(workdir: Path, step: int) -> None:
    """Removes the records after `step`, and a last line that was not finished: the steps will be done again."""
    path = log_path(workdir)
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    replace_file(path, b"".join(kept))


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The records of `log.jsonl`, in order: kind "train" each log period, kind "evaluation" after each evaluation."""
    return [json.loads(line) for line in log_path(workdir).read_text(encoding="utf-8").splitlines()]


class Log:
    """Writes the log of rank 0; on other ranks it does nothing."""

    def __init__(self, workdir: Path, loggers: tuple[str, ...], config: Mapping[str, Any], step: int, total: int,
                 active: bool) -> None:
        self.active, self.total, self._first = active, total, step
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._seconds, self._others = 0.0, list[Logger]()
        if not active:
            return
        self._others = [open_logger(name, workdir, config, step) for name in loggers]
        cut_log(workdir, step)
        self._file = open(log_path(workdir), "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        console = Console()
        if console.is_terminal:
            columns = (BarColumn(20), TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=console)
            self._task = self._progress.add_task("", total=total, completed=step)
            self._progress.start()

    def say(self, text: str) -> None:
        """One line for the reader, above the progress bar where there is one."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        elif self.active:
            print(text, flush=True)

    def train(self, record: Mapping[str, Any], seconds: float) -> None:
        """The record of a log period that took `seconds`."""
        if not self.active:
            return
        self._write({"kind": "train", **record})
        # Of the steps of this session: an earlier one may have run on another machine.
        self._seconds += seconds
        step = record["step"]
        left = self._seconds / max(step - self._first, 1) * (self.total - step)
        losses = " ".join(f"{name} {value:.3f}" for name, value in record["weighted"].items())
        text = (f"epoch {record['epoch']:.2f} loss {record['loss']:.4f} ({losses}) lr {record['lr']:.2e} "
                f"grad {record['grad_norm']:.2f} {record['images_per_s']:.1f} images/s ETA {_clock(left)}")
        if self._progress is not None:
            assert self._task is not None
            self._progress.update(self._task, completed=step, description=text)
        else:
            print(f"step {step}/{self.total} {text}", flush=True)

    def evaluation(self, record: Mapping[str, Any], text: str) -> None:
        """The record of an evaluation, and the same in words."""
        if self.active:
            self._write({"kind": "evaluation", **record})
            self.say(text)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(_strict(record), allow_nan=False) + "\n")
        self._file.flush()
        for other in self._others:
            other.write(int(record["step"]), flatten(record))

    def sync(self) -> None:
        """Waits until the log is on the disk: before a checkpoint, so that the log never is behind one."""
        if self.active:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self.active:
            return
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._file.close()
        for other in self._others:
            other.close()
        sys.stdout.flush()


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a record under names with slashes, for loggers that know only numbers."""
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers


def _strict(value: Any) -> Any:
    """Without NaN and infinity, which JSON does not have: None in their place (an AP of a class without objects)."""
    if isinstance(value, Mapping):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
