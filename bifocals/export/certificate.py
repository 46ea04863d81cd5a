"""What an exported file was proved to do, as a record beside it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from operator import or_
from pathlib import Path
from typing import Any, Protocol

from .metadata import MapMetadata, Metadata

FILE_NAME = "certificate.json"
METRICS = {"detect": "AP", "segment": "mIoU"}
_PACKAGES = ("bifocals", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")


class Difference(Protocol):
    """How the results of a file differ from those of the eager network: a dataclass of numbers."""

    def __or__(self, other: Any) -> Any:
        """The worse of both."""
        ...

    def sentence(self) -> str:
        """The numbers in words, without a full stop."""
        ...


@dataclass(frozen=True)
class Accuracy:
    """What a metric says of a file on annotated images, 0..1, None where it has no value.

    values: `after` of the file, `before` of the eager network on the same pixels, `training_input` of the eager network
    on the input of its training, where that was given.
    """

    metric: str
    images: int
    values: Mapping[str, float | None]

    def change(self) -> float:
        """How far `after` lies from `before`; 0 where one has no value."""
        before, after = self.values["before"], self.values["after"]
        return 0.0 if before is None or after is None else abs(after - before)

    def sentence(self) -> str:
        values = ", ".join(f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in self.values.items())
        return f"{self.metric} on {self.images} images: {values}"


@dataclass(frozen=True)
class Certificate:
    """The proof that a file computes what the network computes.

    file: name of the file. sha256: of its bytes. metadata: what the file says about itself. ops: how often each ONNX
    operator occurs. parity: greatest differences to the eager network, by batch size; the eager side always computes
    one image at a time. tolerance: the differences that pass. num_images: real images compared. accuracy: on annotated
    images, None where none were given. latency_ms: p50 and p90 of one image, and the protocol.
    """

    file: str
    sha256: str
    bytes: int
    metadata: Metadata | MapMetadata
    opset: int
    ops: Mapping[str, int]
    tolerance: Any
    parity: Mapping[int, Any]
    num_images: int
    accuracy: Accuracy | None
    latency_ms: Mapping[str, Mapping[str, float]]
    latency_protocol: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as values that JSON has, the accuracy under the name of its metric: `ap` or `miou`."""
        record = asdict(self)
        del record["accuracy"]
        metric = METRICS[self.metadata.task].lower()
        record[metric] = None if self.accuracy is None else dict(self.accuracy.values)
        record[f"{metric}_images"] = 0 if self.accuracy is None else self.accuracy.images
        record["parity"] = {f"batch {size}": asdict(difference) for size, difference in self.parity.items()}
        return record

    def save(self, folder: str | Path, name: str = FILE_NAME) -> Path:
        """Writes the record into the folder and returns its path."""
        path = Path(folder) / name
        path.write_text(json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path

    def summary(self) -> str:
        """A few lines for a terminal."""
        worst: Difference = reduce(or_, self.parity.values())
        lines = [
            f"{self.file}: {self.bytes / 2**20:.1f} MiB, input {self.metadata.input_dtype} [B, 3, "
            f"{self.metadata.input_hw[0]}, {self.metadata.input_hw[1]}], {self._inside()}, sha256 {self.sha256[:12]}",
            f"batches of {', '.join(map(str, self.parity))} on {self.num_images} images: {worst.sentence()}",
        ]
        if self.accuracy is not None:
            lines.append(self.accuracy.sentence())
        times = ", ".join(f"{name} {ms['p50']:.1f} / {ms['p90']:.1f} ms" for name, ms in self.latency_ms.items())
        lines.append(f"latency p50 / p90: {times}; {self.latency_protocol}")
        return "\n".join(lines)

    def _inside(self) -> str:
        if isinstance(self.metadata, MapMetadata):
            return "argmax inside" if self.metadata.argmax else "logits of all classes"
        return "no NMS node" if "NonMaxSuppression" not in self.ops else "NMS inside"


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
