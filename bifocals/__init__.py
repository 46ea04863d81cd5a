"""Bifocals trains, compares, searches and ships dense-vision models.

    import bifocals
    trained = bifocals.load("runs/latest")

Names are imported when they are first used: `import bifocals` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .data import Data, Input
    from .evaluate import evaluate
    from .export import export_onnx, export_segmenter
    from .predict import predict
    from .train import Experiment, Optim, Provenance, Run, fit, load

_ROOMS = {
    "Data": "data",
    "Experiment": "train",
    "Input": "data",
    "Optim": "train",
    "Provenance": "train",
    "Run": "train",
    "evaluate": "evaluate",
    "export_onnx": "export",
    "export_segmenter": "export",
    "fit": "train",
    "load": "train",
    "predict": "predict",
}

__all__ = [
    "Data",
    "Experiment",
    "Input",
    "Optim",
    "Provenance",
    "Run",
    "__version__",
    "evaluate",
    "export_onnx",
    "export_segmenter",
    "fit",
    "load",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'bifocals' has no attribute {name!r}; it has {sorted(_ROOMS)}")
    return getattr(importlib.import_module(f"bifocals.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
