"""What an exported file was proved to do, as a record beside it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .parity import Difference, Tolerance
from .session import Metadata

FILE_NAME = "certificate.json"
_PACKAGES = ("bifocals", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Certificate:
    """The proof that a file computes what the network computes.

    file: name of the file. sha256: of its bytes. metadata: what the file says about itself. ops: how often each ONNX
    operator occurs. parity: greatest differences to the eager network and `Postprocess`, by batch size, in pixels of
    the input and in probability; the eager side always computes one image at a time. num_images: real images compared.
    ap: COCO AP on `ap_images` annotated images, None where none were given: `after` of the file, `before` of the eager
    network on the same pixels, `training_input` of the eager network on the input of its training, where that was
    given. latency_ms: p50 and p90 of one image, and `protocol`.
    """

    file: str
    sha256: str
    bytes: int
    metadata: Metadata
    opset: int
    ops: Mapping[str, int]
    tolerance: Tolerance
    parity: Mapping[int, Difference]
    num_images: int
    ap: Mapping[str, float | None] | None
    ap_images: int
    latency_ms: Mapping[str, Mapping[str, float]]
    latency_protocol: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as values that JSON has."""
        record = asdict(self)
        record["parity"] = {f"batch {size}": asdict(difference) for size, difference in self.parity.items()}
        return record

    def save(self, folder: str | Path, name: str = FILE_NAME) -> Path:
        """Writes the record into the folder and returns its path."""
        path = Path(folder) / name
        path.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path

    def summary(self) -> str:
        """A few lines for a terminal."""
        worst = Difference(0.0, 0.0, 0, 0)
        for difference in self.parity.values():
            worst |= difference
        lines = [
            f"{self.file}: {self.bytes / 2**20:.1f} MiB, input {self.metadata.input_dtype} [B, 3, "
            f"{self.metadata.input_hw[0]}, {self.metadata.input_hw[1]}], "
            f"{'no NMS node' if 'NonMaxSuppression' not in self.ops else 'NMS inside'}, sha256 {self.sha256[:12]}",
            f"batches of {', '.join(map(str, self.parity))} on {self.num_images} images: greatest difference "
            f"{worst.box:.1e} px and {worst.score:.1e} in score, {worst.compared} detections compared",
        ]
        if self.ap is not None:
            values = ", ".join(f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in self.ap.items())
            lines.append(f"AP on {self.ap_images} images: {values}")
        times = ", ".join(f"{name} {ms['p50']:.1f} / {ms['p90']:.1f} ms" for name, ms in self.latency_ms.items())
        lines.append(f"latency p50 / p90: {times}; {self.latency_protocol}")
        return "\n".join(lines)


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """The versions of what took part."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a clone that is not installed
            found[package] = "not installed"
    return found
