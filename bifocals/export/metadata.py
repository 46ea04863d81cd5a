"""What an exported file says about itself, and opening one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import onnxruntime

METADATA_KEY = "bifocals"


@dataclass(frozen=True)
class Metadata:
    """What the file of a detector says: names of the classes, the size of its input, and how it chooses detections.

    resize: short and greatest long side in pixels to which training resized pictures, None where that is not known.
    """

    classes: tuple[str, ...]
    input_hw: tuple[int, int]
    input_dtype: str
    resize: tuple[int, int] | None
    output: str
    score_threshold: float
    max_detections: int
    nms: float | None
    bifocals: str
    task: Literal["detect"] = "detect"  # the first files do not say it


@dataclass(frozen=True)
class MapMetadata:
    """What the file of a segmenter says: names of the classes, the size of its input, and what it gives.

    factor: by which training scaled pictures, None where that is not known. argmax: the file gives the best class of
    each pixel, else the logits of all classes.
    """

    classes: tuple[str, ...]
    input_hw: tuple[int, int]
    input_dtype: str
    factor: float | None
    output: str
    argmax: bool
    bifocals: str
    task: Literal["segment"] = "segment"


Described = TypeVar("Described", Metadata, MapMetadata)
_RUNS: dict[str, tuple[str, str]] = {
    "detect": ("detector", "OnnxDetector"), "segment": ("segmenter", "OnnxSegmenter"),
}


def as_text(metadata: Metadata | MapMetadata) -> str:
    """The record as it lies in the file."""
    return json.dumps(asdict(metadata))


def open_file(
    path: str | Path, kind: type[Described], threads: int | None, providers: Sequence[str] | None
) -> tuple[onnxruntime.InferenceSession, Described]:
    """A session of ONNX Runtime on a file of ours, and what the file says about itself.

    threads: of one operator, None for ONNX Runtime's choice. providers: of ONNX Runtime, the CPU where None.
    ValueError if the file was not written by Bifocals, or is of the other kind.
    """
    what, who = _RUNS[kind.task]
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers or ["CPUExecutionProvider"]))
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{who} expected a file that Bifocals exported, got {str(path)!r} without metadata "
                         f"{METADATA_KEY!r}; ONNX Runtime itself runs any file.")
    values: dict[str, Any] = json.loads(text)
    task = values.get("task", "detect")
    if task != kind.task:
        other, runs = _RUNS.get(task, (f"model for {task!r}", "a later Bifocals"))
        raise ValueError(f"{who} expected the file of a {what}, got {str(path)!r}, of a {other}; {runs} runs it.")
    record: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return session, kind(**record)
