"""Starting a run from parts of another one's trained network."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .checkpoint import FOLDER, Checkpoint, latest_checkpoint, read_checkpoint
from .weights import best_path, from_bytes, read_best
from .workdir import RECORD, read_record


@dataclass(frozen=True)
class Source:
    """Weights to copy from: tensors by name, what they are in words, and the arguments of the recipe behind them."""

    tensors: Mapping[str, Tensor]
    origin: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_source(path: str | Path) -> Source:
    """Reads the weights of a work directory, of one of its checkpoints, or of a file (.safetensors or .pth).

    Of a work directory it takes the best weights where the run was evaluated, else its last checkpoint; of a
    checkpoint the moving average where there is one. What a run wrote is verified against its sha256, and nothing in
    a file is executed. ValueError, in one sentence, for a path that holds no weights.
    """
    path = Path(path)
    if path.is_file():
        return Source(_read_file(path), str(path))
    if not path.is_dir():
        raise ValueError(f"--init expected a work directory, a checkpoint or a file of weights, got {str(path)!r}, "
                         "where there is nothing.")
    if FOLDER.fullmatch(path.name):
        workdir = path.parent.parent
        return _of_checkpoint(read_checkpoint(path), read_record(workdir) if (workdir / RECORD).is_file() else {})
    record = read_record(path)
    if best_path(path).is_file():
        tensors, metadata = read_best(path)
        return Source(tensors, f"{path}, best weights, of step {metadata['step']}", _arguments(record))
    checkpoint = latest_checkpoint(path)
    if checkpoint is None:
        raise ValueError(f"--init expected a run with weights, got {path}, which has not saved any yet.")
    return _of_checkpoint(checkpoint, record)


def _of_checkpoint(checkpoint: Checkpoint, record: Mapping[str, Any]) -> Source:
    name = "ema.safetensors" if "ema.safetensors" in checkpoint.files else "model.safetensors"
    origin = f"{checkpoint.folder / name}, of step {checkpoint.step}"
    return Source(from_bytes(checkpoint.files[name]), origin, _arguments(record))


def _arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    return record.get("arguments") or {}


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return from_bytes(path.read_bytes())
        found = torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ValueError(f"--init expected a file of weights (.safetensors or .pth), got {path}, which cannot be read "
                         f"as one ({type(error).__name__}).") from error
    tensors = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"--init expected a file of tensors by name, got {path}, which holds something else.")
    return tensors


def copy_weights(network: nn.Module, source: Source, parts: Sequence[str], whole: Sequence[str] = ()) -> str:
    """Copies the tensors of some parts of a network where name and shape agree, and says in a sentence what it did.

    parts: prefixes of names, "neck" for everything under `neck.`; all other tensors stay as they are, also where their
    names agree. whole: those of the parts that must agree in every tensor: half of a body is worth nothing.
    ValueError if such a part differs or if nothing at all agrees.
    """
    own = network.state_dict()
    copied: dict[str, Tensor] = {}
    said, differing = [], []
    for part in parts:
        mine, theirs = _names(own, f"{part}."), _names(source.tensors, f"{part}.")
        shaped = {name for name in mine & theirs if own[name].shape == source.tensors[name].shape}
        if part in whole and not mine == theirs == shaped:
            raise ValueError(f"--init expected the {part} of this network, got another one in {source.origin}: "
                             f"{_difference(own, source.tensors, mine, theirs)}.")
        copied |= {name: source.tensors[name].to(own[name].dtype) for name in shaped}
        said.append(f"{part} {len(shaped)}" if shaped == mine else f"{part} {len(shaped)} of {len(mine)}")
        if shaped != mine:
            differing.append(_difference(own, source.tensors, mine, theirs))
    if not copied:
        raise ValueError(f"--init expected tensors of {', '.join(parts)} as this network has them, got none in "
                         f"{source.origin}, which has {', '.join(sorted(source.tensors)[:3]) or 'no tensors'}.")
    network.load_state_dict(copied, strict=False)
    rest = Counter(".".join(name.split(".")[:2]) for name in _names(own, "") - set(copied))
    left = ", ".join(f"{group} ({count})" for group, count in sorted(rest.items())) or "nothing"
    note = f"; not the same there: {'; '.join(differing)}" if differing else ""
    return f"init: copied {', '.join(said)} tensors from {source.origin}; left as built: {left}{note}."


def _names(tensors: Mapping[str, Tensor], prefix: str) -> set[str]:
    # The number of batches that a norm has seen is of no use here, and files from elsewhere may lack it.
    return {name for name in tensors if name.startswith(prefix) and not name.endswith(".num_batches_tracked")}


def _difference(own: Mapping[str, Tensor], other: Mapping[str, Tensor], mine: set[str], theirs: set[str]) -> str:
    """The first tensor that differs, in half a sentence."""
    for name in sorted(mine | theirs):
        if name not in theirs:
            return f"{name} is missing there"
        if name not in mine:
            return f"{name} is missing here"
        if own[name].shape != other[name].shape:
            return f"{name} is {list(other[name].shape)} there and {list(own[name].shape)} here"
    raise AssertionError("the parts are the same")
