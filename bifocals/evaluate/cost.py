"""What a network costs: parameters and multiply-accumulates, counted without computing anything.

MACs (multiply-accumulates) are counted for one image. "Convolutions" counts the products of convolutions alone, as the
tables of most papers can be reproduced. "All" follows the counter of mmcv, which DATE's tables used: also 1 an
output element for a convolution's bias, 2 an element for batch and group norm, 1 for ReLU and for each pooling window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PartCost:
    """Parameters (those that learn, and all) and MACs (convolutions alone, and all) of one part."""

    trainable: int
    parameters: int
    conv_macs: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """The whole network and its parts, one entry a child module down to the named predictors."""

    total: PartCost
    parts: dict[str, PartCost]
    input_hw: tuple[int, int]


def cost(build: Callable[[], nn.Module], input_hw: tuple[int, int]) -> Cost:
    """Counts the network that `build` makes, for one image of `input_hw` pixels.

    Everything happens on torch's meta device: no memory is taken, no arithmetic done.
    """
    with torch.device("meta"):
        network = build()
        network.eval()
        conv, everything = _count_macs(network, torch.zeros(1, 3, *input_hw))
    groups: dict[str, list[nn.Module]] = defaultdict(list)
    for name, module in network.named_modules():
        if not any(True for _ in module.children()):
            groups[_part_of(name)].append(module)
    owner = {id(p): _part_of(name) for name, p in network.named_parameters()}
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for parameter in network.parameters():
        counts = sizes[owner[id(parameter)]]
        counts[0] += parameter.numel() * parameter.requires_grad
        counts[1] += parameter.numel()
    parts = {}
    for part in dict.fromkeys([*groups, *sizes]):
        modules = groups.get(part, [])
        conv_macs, macs = sum(conv[m] for m in modules), sum(everything[m] for m in modules)
        row = PartCost(sizes[part][0], sizes[part][1], conv_macs, macs)
        if row != PartCost(0, 0, 0, 0):
            parts[part] = row
    total = PartCost(
        sum(p.trainable for p in parts.values()),
        sum(p.parameters for p in parts.values()),
        sum(p.conv_macs for p in parts.values()),
        sum(p.macs for p in parts.values()),
    )
    return Cost(total, parts, input_hw)


def _part_of(name: str) -> str:
    """backbone, neck, then head.towers-like names, and each predictor for itself."""
    words = name.split(".")
    if words[0] != "head":
        return words[0]
    return ".".join(words[:3]) if len(words) > 1 and words[1] == "predictors" else ".".join(words[:2])


def _count_macs(network: nn.Module, images: Tensor) -> tuple[dict[nn.Module, int], dict[nn.Module, int]]:
    conv: dict[nn.Module, int] = defaultdict(int)
    everything: dict[nn.Module, int] = defaultdict(int)

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            conv[module] += per_output * output.numel()
            everything[module] += (per_output + (module.bias is not None)) * output.numel()
        elif isinstance(module, nn.Linear):
            everything[module] += (module.in_features + (module.bias is not None)) * output.numel()
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            everything[module] += 2 * inputs[0].numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.GELU | nn.MaxPool2d | nn.AvgPool2d):
            everything[module] += inputs[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return conv, everything
