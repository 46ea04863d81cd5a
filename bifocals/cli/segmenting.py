"""What `bifocals evaluate` and `bifocals predict` do with a run that segments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bifocals.data import map_eval_transform, open_maps
from bifocals.evaluate import evaluate_maps
from bifocals.predict import MapViews, Precision, of_output, predict_maps
from bifocals.train import Trained

TTA_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The sizes of a multi-scale test, as factors on the run's own."""


def refuse(command: str, trained: Trained, given: Mapping[str, Any]) -> None:
    """ValueError for options that only the other task has. given: name -> whether the option was given."""
    named = [f"--{name}" for name, there in given.items() if there]
    if named:
        raise ValueError(f"bifocals {command} expected options for the task {trained.experiment.task!r} of "
                         f"{trained.workdir}, got {', '.join(named)}.")


def parse_map_views(tta: bool, scales: tuple[float, ...], flip: bool, window_hw: tuple[int, int] | None) -> MapViews:
    return MapViews(scales or (TTA_SCALES if tta else (1.0,)), flip, window_hw)


def evaluate_segmenter(
    trained: Trained, data: Any, split: str, *, output: str, views: MapViews, device: torch.device,
    precision: Precision, batch_size: int, workers: int, save: Path | None,
) -> None:
    """Prints mIoU of a split, by class, and keeps all numbers as JSON."""
    experiment = trained.experiment
    maps = open_maps(data, split, classes=trained.classes)  # type: ignore[arg-type]  # the command line knows the names
    found = evaluate_maps(
        trained.network, maps, transform=map_eval_transform(experiment.input), postprocess=experiment.postprocess,
        output=output, device=device, precision=precision, batch_size=batch_size, workers=workers,
        scales=views.scales, flip=views.flip, sliding=views.window_hw,
    )
    print(found.summary())
    record = {"split": split, "weights": trained.weights, "step": trained.step, **found.to_json()}
    path = save or trained.workdir / f"evaluation-{split}-{output}{'' if views == MapViews() else '-tta'}.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf8")
    print(f"saved {path}")


def predict_segmenter(
    trained: Trained, images: tuple[Path, ...], folder: Path, *, output: str, views: MapViews, device: torch.device,
    precision: Precision,
) -> None:
    """Paints pictures and writes their label maps."""
    experiment = trained.experiment
    colors = trained.run_json.get("palette")
    found = predict_maps(
        trained.network, images, transform=map_eval_transform(experiment.input),
        postprocess=of_output(experiment.postprocess, output, "bifocals predict"), output=output,
        classes=trained.classes, palette=None if colors is None else [tuple(color) for color in colors],
        out=folder, device=device, precision=precision, views=views,
    )
    print(f"{len(found.pictures)} pictures painted, {len(found.skipped)} files skipped: {folder}")
