"""A module as an ONNX file of its own: any number of images, and what the file says about itself inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn

from . import class_nms, roi_pool
from .metadata import METADATA_KEY


class ParityError(RuntimeError):
    """The exported file does not compute what the network computes."""


class NotExportable(ValueError):
    """Something in the network has no form in ONNX."""


def write_graph(
    program: nn.Module,
    path: Path,
    *,
    arguments: Mapping[str, Tensor],
    output_names: Sequence[str],
    opset: int,
    metadata: str,
) -> None:
    """Writes the module with its weights into one file.

    arguments: an example of each input, of two images: a traced batch of one would be taken for a constant.
    NotExportable if something in the module has no form in ONNX. ParityError if the graph takes one batch size alone.
    """
    # Only the first input names the dimension: naming it twice makes the exporter warn that one name is not used.
    dynamic: dict[str, Any] = {name: {0: torch.export.Dim.DYNAMIC} for name in arguments}
    dynamic[next(iter(arguments))] = {0: torch.export.Dim("batch")}
    with torch.no_grad(), _shapes_unchecked():
        try:
            made = torch.onnx.export(
                program,
                (),
                kwargs=dict(arguments),
                input_names=list(arguments),
                output_names=list(output_names),
                dynamic_shapes=dynamic,
                opset_version=opset,
                dynamo=True,
                custom_translation_table=class_nms.translations() | roi_pool.translations(),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise NotExportable(f"The network cannot be written as ONNX of opset {opset}: torch {torch.__version__}'s "
                                f"exporter ends in {_root(error)}.") from error
    assert made is not None
    shape = made.model.graph.inputs[0].shape
    assert shape is not None
    batch = shape[0]
    if isinstance(batch, int):
        raise ParityError(f"The exported graph takes batches of {batch} only: something in the network reads the batch "
                          "size as a number, as `int(x.shape[0])` does, where any size was expected.")
    made.model.metadata_props[METADATA_KEY] = metadata
    made.save(path, external_data=False)


def _root(error: BaseException) -> str:
    """Kind and first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


@contextmanager
def _shapes_unchecked() -> Iterator[None]:
    """While a graph is traced sizes are symbols, and checking a shape would turn them into numbers, silently."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def count_ops(graph: Any) -> Counter[str]:
    """Operators of a graph and of the graphs inside its nodes."""
    counts: Counter[str] = Counter()
    for node in graph.node:
        counts[node.op_type] += 1
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                counts.update(count_ops(inner))
    return counts
