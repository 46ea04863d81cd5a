"""bifocals evaluate WORKDIR"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bifocals.data import eval_transform, open_split
from bifocals.evaluate import evaluate
from bifocals.train import Trained, load

from .options import parse_device, parse_nms


def run(argv: list[str]) -> int:
    tyro.cli(evaluate_run, args=argv, prog="bifocals evaluate")
    return 0


def evaluate_run(
    workdir: tyro.conf.Positional[Path],
    split: Literal["train", "val", "test"] = "test",
    data_root: Annotated[str, tyro.conf.arg(name="data.root")] = "",
    output: str = "",
    nms: str = "default",
    weights: Literal["best", "last"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 4,
    workers: int = 2,
    save: Path | None = None,
) -> None:
    """Prints COCO's 12 numbers of a trained run, per class, with the duplicate rate; an output that needs no NMS is
    also shown with it.

    Args:
        workdir: A work directory of bifocals train.
        split: The part of the set; where there is no test split, name val.
        data_root: Another folder than the one of the training.
        output: The output of the network, one2one or one2many; the one for inference where none is named.
        nms: none, or the IoU of the non-maximum suppression; what the recipe says where it is not given.
        weights: best or last; the best where there are any.
        device: auto, cpu or cuda.
        precision: Arithmetic of the network.
        batch_size: Images at a time.
        workers: Loader processes.
        save: A file for all numbers as JSON; WORKDIR/evaluation-SPLIT-OUTPUT-NMS.json where none is named.
    """
    trained = load(workdir, weights)
    output = output or trained.experiment.output
    found = evaluate(
        trained.network,
        open_split(data_of(trained, data_root), split, classes=trained.classes),
        transform=eval_transform(trained.experiment.input),
        postprocess=trained.experiment.postprocess,
        output=output,
        nms=parse_nms(nms),
        device=parse_device(device),
        precision=precision,
        batch_size=batch_size,
        workers=workers,
    )
    print(found.summary())
    record = {"split": split, "weights": trained.weights, "step": trained.step, **found.to_json()}
    path = save or workdir / f"evaluation-{split}-{output}-{nms}.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf8")
    print(f"saved {path}")


def data_of(trained: Trained, root: str) -> Any:
    """The data of a run, from another folder where one is named."""
    return replace(trained.experiment.data, root=root) if root else trained.experiment.data
