"""Loggers beside the JSON lines; each is imported only when a run asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from .durable import replace_file


class Logger(Protocol):
    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_logger(name: str, workdir: Path, config: Mapping[str, Any], step: int) -> Logger:
    """The logger `name`, going on after `step`. ValueError if its package is not installed."""
    match name:
        case "tensorboard":
            return TensorBoard(_import("torch.utils.tensorboard", name), workdir, step)
        case "wandb":
            return WandB(_import("wandb", name), workdir, config)
        case "mlflow":
            return MLflow(_import("mlflow", name), workdir, config)
    raise ValueError(f"Run expected loggers out of tensorboard, wandb, mlflow, got {name!r}.")


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"Run expected the logger {name!r} to be installed, got {error}: "
                         f"pip install 'bifocals[{name}]'.") from error


class TensorBoard:
    """Event files under `tensorboard/`; what an interrupted session wrote after `step` is hidden."""

    def __init__(self, module: ModuleType, workdir: Path, step: int) -> None:
        self._writer = module.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; its id is kept in the work directory, so a resumed run goes on in it."""

    def __init__(self, module: ModuleType, workdir: Path, config: Mapping[str, Any]) -> None:
        path = workdir / "wandb-id.txt"
        known = path.read_text().strip() if path.is_file() else None
        self._run = module.init(project="bifocals", dir=str(workdir), config=dict(config), id=known, resume="allow")
        if known is None:
            replace_file(path, str(self._run.id).encode())
        # Their own counter cannot go back, and a resumed run repeats steps.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, at the tracking server of its own environment variables; resumed by the id in the workdir."""

    def __init__(self, module: ModuleType, workdir: Path, config: Mapping[str, Any]) -> None:
        self._mlflow = module
        path = workdir / "mlflow-id.txt"
        known = path.read_text().strip() if path.is_file() else None
        run = module.start_run(run_id=known)
        if known is None:
            replace_file(path, str(run.info.run_id).encode())
            module.log_dict(dict(config), "run.json")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self._mlflow.end_run()
