"""Pictures in, pictures with the class of each pixel painted over them and label maps out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from bifocals.data import DataError, collate, read_image
from bifocals.structures import Target

from .draw_maps import Color, draw_map, palette_picture
from .folder import SUFFIXES, find_pictures, picture_target, read_ahead
from .inference import Precision, inference
from .map_views import MapViews, segment
from .pixel_postprocess import PixelPostprocess
from .tta import Transform

SINGLE = MapViews()
_Read = tuple[Tensor, tuple[Tensor, Target]]
"""A picture as it is, and through the transform."""


@dataclass(frozen=True)
class MapPrediction:
    """One picture and the class of each of its pixels. name: unique among the pictures of a call."""

    path: Path
    name: str
    labels: UInt8[Tensor, "H W"]


@dataclass(frozen=True)
class MapPredictions:
    """The pictures that could be read, in order, and one line for each file that could not."""

    pictures: list[MapPrediction]
    skipped: list[str]


def predict_maps(
    network: nn.Module,
    paths: Sequence[str | Path],
    *,
    transform: Transform,
    postprocess: PixelPostprocess,
    output: str,
    classes: Sequence[str],
    palette: Sequence[Color] | None = None,
    out: str | Path | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    workers: int = 2,
    views: MapViews = SINGLE,
    log: Callable[[str], None] = print,
) -> MapPredictions:
    """The class of each pixel of pictures and of all pictures of folders, subfolders included.

    transform: the one of evaluation. Pictures are turned as their EXIF says. palette: a color of each class. out: a
    folder; it gets `pictures/` with the classes painted over the picture, a legend below, and `maps/` with the labels
    as palette PNG files of the picture's size. views: how pictures are looked at. workers: threads that read ahead.

    A file that is no sound picture is logged and skipped. ValueError if a path does not exist, or there is no picture.
    """
    if workers < 1:
        raise ValueError(f"predict_maps expected workers of at least 1, got {workers}.")
    folder = None if out is None else Path(out)
    files = find_pictures(paths, without=folder)
    if not files:
        raise ValueError(f"predict_maps expected pictures, got none in {[str(p) for p in paths]}; "
                         f"known suffixes are {', '.join(SUFFIXES)}.")
    divisor = int(getattr(network, "size_divisor", 1))
    pictures: list[MapPrediction] = []
    skipped: list[str] = []

    def read(number: int) -> _Read:
        image = read_image(files[number][0])
        return image, transform(image, picture_target((image.shape[-2], image.shape[-1]), number + 1))

    with inference(network, output, device, precision) as forward:
        for number, future in read_ahead(read, range(len(files)), workers, 2 * workers):
            path, name = files[number]
            try:
                image, sample = future.result()
            except DataError as error:
                skipped.append(str(error))
                log(f"skipped {error}")
                continue
            labels = segment(forward, collate([sample], divisor), postprocess, views, divisor)[0].cpu()
            pictures.append(MapPrediction(path, name, labels))
            if folder is not None:
                _save(folder, os.path.splitext(name)[0], image, labels, classes, palette)
    return MapPredictions(pictures, skipped)


def _save(
    folder: Path, stem: str, image: Tensor, labels: Tensor, classes: Sequence[str], palette: Sequence[Color] | None
) -> None:
    painted, plain = folder / "pictures" / f"{stem}.jpg", folder / "maps" / f"{stem}.png"
    for path in (painted, plain):
        path.parent.mkdir(parents=True, exist_ok=True)
    draw_map(image, labels, classes, palette=palette).save(painted, quality=90)
    palette_picture(labels, len(classes), palette).save(plain)
