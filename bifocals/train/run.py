"""Where and how a run happens, never what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOGGERS = ("tensorboard", "wandb", "mlflow")

# Fields that change the weights: a run can only be resumed with the same ones. All others may differ.
BINDING = ("seed", "precision", "accumulate")


@dataclass(frozen=True)
class Run:
    """Where and how. ValueError for values that no run can have."""

    workdir: str = "runs/latest"
    """Folder of the run: run.json, log.jsonl, checkpoints/ and best/. Never overwritten."""
    seed: int = 0
    """Initial weights, sample order, augmentation and dropout are functions of it."""
    device: str = "auto"
    """auto: a CUDA device where there is one, else the CPU. Under torchrun each process takes its own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the network runs under autocast; losses and weights stay in float32, so no scaler is needed."""
    workers: int = 2
    """Loader processes of each rank. The samples do not depend on it."""
    accumulate: int = 1
    """Micro-batches of an optimizer step, to train with less memory. Each normalizes its own losses."""
    compile: bool = False
    """Compiles the network with torch.compile: slow to start, faster afterwards."""
    resume: Literal["no", "auto"] = "no"
    """auto: go on from the last good checkpoint of the workdir, or start where there is none yet."""
    log_every: int = 50
    """Steps between two lines of the log."""
    eval_every: int = 1
    """Epochs between two evaluations on the val split; 0 evaluates at the end only."""
    save_every: int = 0
    """Steps between two checkpoints; 0 saves after each epoch. The end is always saved."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Loggers beside log.jsonl, which is always written."""

    def __post_init__(self) -> None:
        if not self.workdir:
            raise ValueError("Run expected workdir to name a folder, got an empty string.")
        for name, least in (("workers", 0), ("accumulate", 1), ("log_every", 1), ("eval_every", 0), ("save_every", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"Run expected {name} to be at least {least}, got {value}.")
        for name, known in (("precision", ("fp32", "bf16")), ("resume", ("no", "auto"))):
            if getattr(self, name) not in known:
                raise ValueError(f"Run expected {name} to be one of {known}, got {getattr(self, name)!r}.")
        unknown = sorted(set(self.loggers) - set(LOGGERS))
        if unknown:
            raise ValueError(f"Run expected loggers out of {LOGGERS}, got {unknown}.")
