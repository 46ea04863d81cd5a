"""How a network runs when it does not learn.

Letters: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from bifocals.structures import Batch

Precision = Literal["fp32", "bf16"]
Value = TypeVar("Value")


@contextmanager
def inference(
    network: nn.Module, output: str, device: torch.device | str | None = None, precision: Precision = "fp32"
) -> Iterator[Callable[[Batch], Any]]:
    """A function from a batch to the named output of the network, without gradient and in evaluation mode.

    device: where to compute, None for where the network is; the network is moved there. precision: bf16 runs the
    network under autocast. Afterwards each module is in the mode it was in, so that a training run may evaluate.
    ValueError if the network has no such output or the precision is unknown.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"inference expected precision 'fp32' or 'bf16', got {precision!r}.")
    names = getattr(network, "outputs", (output,))
    if output not in names:
        raise ValueError(f"inference expected the name of an output of the network, got {output!r}; the network has "
                         f"{list(names)}.")
    if device is None:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
    device = torch.device(device)
    network.to(device)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()

    def forward(batch: Batch) -> Any:
        images = batch.images.to(device, non_blocking=True)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(images, batch.targets)[output]

    try:
        yield forward
    finally:
        for module, mode in modes:
            module.training = mode


def of_output(values: Mapping[str, Value], output: str, who: str) -> Value:
    """The entry of an output. ValueError that names the known outputs if there is none."""
    if output not in values:
        raise ValueError(f"{who} expected postprocess for the output {output!r}, got it for {sorted(values)}; "
                         "name one of those outputs.")
    return values[output]
