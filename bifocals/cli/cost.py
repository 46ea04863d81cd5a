"""bifocals cost RECIPE"""

from __future__ import annotations

from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from bifocals.evaluate.cost import Cost, cost
from bifocals.networks import TwoStageDetector
from bifocals.train import find_recipe

from .find import parse_call, recipe_names, recipe_reference
from .options import shipped

USAGE = """usage: bifocals cost RECIPE [--input-hw 800 1280] [--num-classes 80] [recipe options]

Parameters (those that learn, and all) and multiply-accumulates of one image, by part: of the network in training, and
of a network with several outputs as it is shipped, pruned to that for inference. Of a two-stage detector the second
stage is counted for all the proposals that an image may have. Nothing is computed and nothing loaded.

"conv MACs" counts the products of convolutions. "all MACs" is mmcv's count, which the tables of DATE use: also
convolution biases, norms, ReLU and pooling.

recipes: {recipes}, or FILE.py:FUNCTION"""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(recipe_names())))
        return 0 if argv else 2
    recipe = find_recipe(recipe_reference(argv[0]))
    size = Annotated[tuple[int, int], tyro.conf.arg(help="Height and width of the image, multiples of 32.")]
    classes = Annotated[int, tyro.conf.arg(help="Number of classes.")]
    arguments, extra = parse_call(
        recipe, argv[1:], f"bifocals cost {argv[0]}", input_hw=(size, (800, 1280)), num_classes=(classes, 80)
    )
    experiment = recipe(**arguments)

    kinds = []

    def whole() -> nn.Module:
        network = experiment.network(extra["num_classes"])
        kinds.append(f", {network.choice.keep} regions" if isinstance(network, TwoStageDetector) else "")
        return network

    def pruned() -> nn.Module:
        return shipped(experiment.network(extra["num_classes"]), experiment.output)

    trained, kept = cost(whole, extra["input_hw"]), cost(pruned, extra["input_hw"])
    if trained == kept:
        _print(f"{argv[0]}, in training and shipped{kinds[0]}", trained)
    else:
        _print(f"{argv[0]} in training", trained)
        _print(f"{argv[0]} shipped: pruned to {experiment.output}", kept)
    return 0


def _print(title: str, counted: Cost) -> None:
    table = Table(title=f"{title}, {counted.input_hw[0]}x{counted.input_hw[1]}", title_justify="left")
    table.add_column("part")
    for column in ("trainable", "parameters", "conv GMACs", "all GMACs"):
        table.add_column(column, justify="right")
    for name, part in [*counted.parts.items(), ("total", counted.total)]:
        if name == "total":
            table.add_section()
        table.add_row(name, f"{part.trainable:,}", f"{part.parameters:,}", f"{part.conv_macs / 1e9:.3f}",
                      f"{part.macs / 1e9:.3f}")
    Console(width=100, soft_wrap=False).print(table)
