"""A file gets its name only after it was seen to compute what the network computes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import onnx
import torch
from torch import Tensor, nn

from bifocals.structures import Batch

from .certificate import Accuracy, Certificate, sha256_of, versions
from .graph import ParityError, count_ops
from .latency import cpu_name, latency_ms
from .metadata import MapMetadata, Metadata

BATCH_SIZES = (1, 2, 3)
Result = TypeVar("Result")


class Runner(Protocol):
    """A file at work: `OnnxDetector`, `OnnxSegmenter`."""

    session: Any

    def fit(self, images: Sequence[Tensor]) -> Batch: ...

    def feed(self, batch: Batch) -> dict[str, Any]: ...


class Subject(ABC, Generic[Result]):
    """A network on its way into a file, and what tells whether the file computes the same.

    metadata: what the file will say about itself. tolerance: the differences that pass. Results are of one image each,
    in pixels of the file's input, un-padded.
    """

    metadata: Metadata | MapMetadata
    opset: int
    tolerance: Any

    @abstractmethod
    def write(self, path: Path) -> None:
        """Writes the file."""

    @abstractmethod
    def open(self, path: Path, threads: int) -> Runner:
        """The written file at work."""

    @abstractmethod
    def eager(self, batch: Batch) -> Any:
        """What one run of the file computes, by the eager network; it is timed."""

    @abstractmethod
    def expected(self, batch: Batch) -> list[Result]:
        """The result of each image of a batch by the eager network."""

    @abstractmethod
    def got(self, batch: Batch) -> list[Result]:
        """The result of each image of a batch by the opened file."""

    @abstractmethod
    def compare(self, expected: Sequence[Result], got: Sequence[Result]) -> Any:
        """The worst `Difference` over the images."""

    @abstractmethod
    def failure(self, difference: Any) -> str:
        """What of it exceeds the tolerance, as half a sentence; empty if nothing does."""

    @abstractmethod
    def judge(self) -> Accuracy | None:
        """What the opened file and the network are worth on annotated images, where there are any."""

    @property
    @abstractmethod
    def accuracy_tolerance(self) -> float:
        """The change of accuracy that passes."""


def prove(
    subject: Subject[Any],
    path: Path,
    pictures: Sequence[Tensor],
    *,
    runs: int,
    certificate_name: str,
    log: Callable[[str], None],
) -> Certificate:
    """Writes the file under another name, compares, and gives it its name and a certificate beside it.

    An older file at `path` and its certificate are removed first. ParityError if a difference exceeds the tolerance:
    then the file is named `*.rejected`, and `path` does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected = path.with_name(path.name + ".rejected")
    for old in (path, path.parent / certificate_name, rejected):
        old.unlink(missing_ok=True)
    unproved = path.with_name(path.name + ".unproved")
    try:
        subject.write(unproved)
        runner = subject.open(unproved, torch.get_num_threads())
        parity = _parity(subject, runner, pictures)
        accuracy = subject.judge()
        failure = _failure(subject, parity, accuracy)
        if failure:
            os.replace(unproved, rejected)
            raise ParityError(f"The exported file was rejected: {failure}; it was kept as {rejected.name}.")
        one = runner.fit(pictures[:1])
        feed = runner.feed(one)
        latency = latency_ms(
            {"onnxruntime": lambda: runner.session.run(None, feed), "eager": lambda: subject.eager(one)}, runs=runs
        )
        graph = onnx.load(unproved, load_external_data=False).graph
        height, width = subject.metadata.input_hw
        certificate = Certificate(
            file=path.name, sha256=sha256_of(unproved), bytes=unproved.stat().st_size, metadata=subject.metadata,
            opset=subject.opset, ops=dict(sorted(count_ops(graph).items())), tolerance=subject.tolerance,
            parity=parity, num_images=len(pictures), accuracy=accuracy, latency_ms=latency,
            latency_protocol=f"one image in memory at {height}x{width}, decoding included, {runs} runs in turns after "
                             f"3 to warm up, {torch.get_num_threads()} threads each, {cpu_name()}",
            versions=versions(),
        )
        os.replace(unproved, path)
    finally:
        unproved.unlink(missing_ok=True)
    certificate.save(path.parent, certificate_name)
    log(certificate.summary())
    return certificate


def require(
    who: str,
    network: nn.Module,
    output: str,
    input_hw: tuple[int, int],
    pictures: Sequence[Tensor],
    input_dtype: str,
) -> None:
    """ValueError, in the name of `who`, for what cannot be exported or compared."""
    divisor = int(getattr(network, "size_divisor", 1))
    if min(input_hw) < 1 or input_hw[0] % divisor or input_hw[1] % divisor:
        raise ValueError(f"{who} expected input_hw in multiples of {divisor}, got {tuple(input_hw)}; "
                         f"the strides of the network divide {divisor}.")
    if not pictures:
        raise ValueError(f"{who} expected real images to compare on, got none; one image is enough, eight of the "
                         "kind that the file will see are better.")
    for picture in pictures:
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
            raise ValueError(f"{who} expected images as RGB bytes [3, H, W], got {picture.dtype} of shape "
                             f"{list(picture.shape)}; files are taken as well.")
    if output not in getattr(network, "outputs", (output,)):
        raise ValueError(f"{who} expected the name of an output, got {output!r}; the network has "
                         f"{list(getattr(network, 'outputs', ()))}.")
    if input_dtype not in ("uint8", "float32"):
        raise ValueError(f"{who} expected input_dtype 'uint8' or 'float32', got {input_dtype!r}.")


def _parity(subject: Subject[Any], runner: Runner, pictures: Sequence[Tensor]) -> dict[int, Any]:
    """Differences by batch size. Each image passes through several rows of the larger batches."""
    singles = []
    for picture in pictures:
        batch = runner.fit([picture])
        # In pixels of the input, which is where the tolerance is meant.
        singles.append(Batch(batch.images, tuple(replace(t, original_hw=t.size_hw) for t in batch.targets)))
    expected = [subject.expected(batch)[0] for batch in singles]
    differences = {}
    for size in BATCH_SIZES:
        found = []
        for start in range(len(singles)):
            members = [(start + i) % len(singles) for i in range(size)]
            batch = Batch(
                torch.cat([singles[i].images for i in members]), tuple(singles[i].targets[0] for i in members)
            )
            found.append(subject.compare([expected[i] for i in members], subject.got(batch)))
        differences[size] = reduce(or_, found)
    return differences


def _failure(subject: Subject[Any], parity: dict[int, Any], accuracy: Accuracy | None) -> str:
    """What exceeds the tolerance, as half a sentence; empty if nothing does."""
    for size, difference in parity.items():
        failure = subject.failure(difference)
        if failure:
            return f"at batch {size} {failure}"
    if accuracy is not None and accuracy.change() > subject.accuracy_tolerance:
        return (f"{accuracy.metric} is {accuracy.values['after']:.4f} after and {accuracy.values['before']:.4f} "
                f"before, where a change of {subject.accuracy_tolerance:g} was expected")
    return ""
