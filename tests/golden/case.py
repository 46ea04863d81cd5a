"""One recorded case: its arrays as tensors, its hyper-parameters, and comparison at its own tolerance."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_NUMBER = r"([0-9.]+(?:e-?[0-9]+)?)"


@dataclass
class Case:
    """`input(name)` and `output(name)` read arrays; `check(name, ours)` compares one and notes that it was compared."""

    name: str
    meta: dict
    arrays: dict[str, np.ndarray]
    checked: set[str] = field(default_factory=set)

    @staticmethod
    def read(folder: Path, name: str) -> Case:
        path = folder / name
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return Case(name, json.loads(path.with_suffix(".json").read_text()), arrays)

    @property
    def hyper(self) -> dict:
        return self.meta["hyperparameters"]

    def has(self, name: str) -> bool:
        return name in self.arrays

    def input(self, name: str) -> Tensor:
        assert self.meta["arrays"][name]["role"] == "input", name
        return torch.from_numpy(np.array(self.arrays[name]))

    def output(self, name: str) -> Tensor:
        assert self.meta["arrays"][name]["role"] == "output", name
        self.checked.add(name)
        return torch.from_numpy(np.array(self.arrays[name]))

    def levels(self, prefix: str) -> list[Tensor]:
        count = sum(re.fullmatch(rf"{re.escape(prefix)}_\d+", key) is not None for key in self.arrays)
        return [self.input(f"{prefix}_{i}") for i in range(count)]

    def num_images(self) -> int:
        return len({m.group(1) for key in self.arrays if (m := re.match(r"img(\d+)_", key))})

    def tolerance(self, kind: str = "") -> tuple[float, float]:
        """(rtol, atol) of the clause of the case's tolerance that speaks of `kind`, else of its first clause.

        Where a clause leaves one out, the default of the recorded set holds: rtol 1e-5, atol 1e-6.
        """
        text = self.meta["tolerance"]
        if absolute := re.search(rf"absolute {_NUMBER}", text):
            return 0.0, float(absolute.group(1))
        clauses = re.findall(rf"([^;]*?)rtol {_NUMBER}(?:,? atol {_NUMBER})?", text)
        assert clauses, f"{self.name}: no tolerance in {text!r}"
        _, rtol, atol = next((c for c in clauses if kind and kind in c[0]), clauses[0])
        return float(rtol), float(atol or 1e-6)

    def check(self, name: str, ours: Tensor | float, kind: str = "") -> None:
        """Compares `ours` with the recorded output: integers exactly, floats at the tolerance of `kind`."""
        expected = self.output(name)
        ours = torch.as_tensor(ours).detach()
        if expected.dtype == torch.int64:
            assert ours.tolist() == expected.tolist(), f"{self.name}: {name}"
            return
        rtol, atol = self.tolerance(kind)
        torch.testing.assert_close(ours.to(expected.dtype), expected, rtol=rtol, atol=atol,
                                   msg=lambda m: f"{self.name}: {name}: {m}")

    def unchecked(self) -> list[str]:
        outputs = {k for k, a in self.meta["arrays"].items() if a["role"] == "output"}
        return sorted(outputs - self.checked)
