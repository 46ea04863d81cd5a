"""Weights on disk: safetensors under the network's own names, loadable without this package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .checkpoint import DamagedCheckpoint
from .durable import replace_file


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as a safetensors file. Tied tensors are written once for each name."""
    return safetensors.torch.save(_on_cpu(tensors), None if metadata is None else dict(metadata))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        # safetensors wants the default memory format, and no two names for one storage.
        copy = tensor.detach().cpu().contiguous()
        storage = copy.untyped_storage().data_ptr()
        result[name] = copy.clone() if storage in seen else copy
        seen.add(storage)
    return result


def from_bytes(content: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(content)


def save_best(workdir: Path, network: nn.Module, metadata: Mapping[str, str]) -> Path:
    """Writes `best/model.safetensors` at once; the metadata says what made it the best and holds a sha256."""
    tensors = _on_cpu(network.state_dict())
    path = best_path(workdir)
    replace_file(path, to_bytes(tensors, {**metadata, "sha256": _digest(tensors, metadata)}))
    return path


def best_path(workdir: Path) -> Path:
    return workdir / "best" / "model.safetensors"


def read_best(workdir: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and metadata of `best/`. DamagedCheckpoint, in one line, if they are not what was written."""
    path = best_path(workdir)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{path}: expected a safetensors file, got one that cannot be read "
                                f"({error}).") from error
    expected = metadata.pop("sha256", "none")
    got = _digest(tensors, metadata)
    if got != expected:
        raise DamagedCheckpoint(f"{path}: expected sha256 {expected} of its tensors, got {got}.")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], origin: object) -> None:
    """Copies weights into a network. ValueError if the names or shapes are not the network's own."""
    own = network.state_dict()
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unknown:
        raise ValueError(f"{origin} expected the weights of {type(network).__name__}, got {len(missing)} missing "
                         f"{missing[:3]} and {len(unknown)} unknown {unknown[:3]}.")
    wrong = [n for n, t in tensors.items() if t.shape != own[n].shape]
    if wrong:
        raise ValueError(f"{origin} expected {wrong[0]} of shape {tuple(own[wrong[0]].shape)}, got "
                         f"{tuple(tensors[wrong[0]].shape)}.")
    network.load_state_dict(dict(tensors))
