"""Pictures in, pictures with boxes and COCO results out."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bifocals.data import DataError, collate, read_image
from bifocals.structures import Detections, Target

from .draw import draw_detections
from .inference import Precision, Value, inference
from .postprocess import Postprocess
from .results import save_results
from .tta import Transform, Views, detect_views, merging

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")

_Read = tuple[Tensor, list[tuple[Tensor, Target]]]
"""A picture as it is, and through each transform."""


@dataclass(frozen=True)
class Picture:
    """One picture and what was found in it. name: unique among the pictures of a call, with forward slashes."""

    path: Path
    name: str
    image_id: int
    size_hw: tuple[int, int]
    detections: Detections


@dataclass(frozen=True)
class Predictions:
    """The pictures that could be read, in order, and one line for each file that could not."""

    pictures: list[Picture]
    skipped: list[str]


def predict(
    network: nn.Module,
    paths: Sequence[str | Path],
    *,
    transform: Transform,
    postprocess: Postprocess,
    output: str,
    classes: Sequence[str],
    category_ids: Sequence[int] | None = None,
    out: str | Path | None = None,
    score: float = 0.3,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    batch_size: int = 1,
    workers: int = 2,
    views: Views | None = None,
    log: Callable[[str], None] = print,
) -> Predictions:
    """Finds objects in pictures and in all pictures of folders, subfolders included.

    transform: the one of evaluation. Pictures are turned as their EXIF says; boxes are pixels of the turned picture.
    views: where given, each picture is looked at through these in place of `transform`, and what they give is merged
    by an NMS, .6 where the postprocess has none.
    out: a folder; it gets `pictures/` with the detections above `score` drawn, `results.json` with all detections as
    COCO results, and `images.json` with the images and categories those refer to. category_ids: of each class in the
    results, 1, 2, ... where None. batch_size: pictures of one size are computed together up to this number.
    workers: threads that read ahead.

    A file that is no sound picture is logged and skipped. ValueError if a path does not exist, or there is no picture.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"predict expected batch_size and workers of at least 1, got {batch_size} and {workers}.")
    category_ids = tuple(range(1, len(classes) + 1)) if category_ids is None else tuple(category_ids)
    folder = None if out is None else Path(out)
    files = find_pictures(paths, without=folder)
    if not files:
        raise ValueError(f"predict expected pictures, got none in {[str(p) for p in paths]}; "
                         f"known suffixes are {', '.join(SUFFIXES)}.")
    divisor = int(getattr(network, "size_divisor", 1))
    transforms = (transform,) if views is None else views.transforms
    choose = postprocess if views is None else merging(postprocess)
    pictures: list[Picture] = []
    skipped: list[str] = []

    def read(number: int) -> _Read:
        image = read_image(files[number][0])
        target = picture_target((image.shape[-2], image.shape[-1]), number + 1)
        return image, [look(image, target) for look in transforms]

    def run(batch: list[tuple[int, _Read]]) -> None:
        batches = [collate([looks[view] for _, (_, looks) in batch], divisor) for view in range(len(transforms))]
        if views is None:
            found = choose(forward(batches[0]), batches[0].targets)
        else:
            found = detect_views(forward, choose, batches, views.flip)
        for (number, (image, _)), target, detections in zip(batch, batches[0].targets, found, strict=True):
            path, name = files[number]
            picture = Picture(path, name, target.image_id, target.original_hw, detections.cpu())
            pictures.append(picture)
            if folder is not None:
                _save_picture(folder / "pictures" / f"{os.path.splitext(name)[0]}.jpg", image, picture, classes, score)

    with inference(network, output, device, precision) as forward:
        waiting: list[tuple[int, _Read]] = []
        for number, future in read_ahead(read, range(len(files)), workers, 2 * workers + batch_size):
            try:
                sample = future.result()
            except DataError as error:
                skipped.append(str(error))
                log(f"skipped {error}")
                continue
            if waiting and (len(waiting) == batch_size or _shapes(waiting[0][1]) != _shapes(sample)):
                run(waiting)
                waiting = []
            waiting.append((number, sample))
        if waiting:
            run(waiting)
    if folder is not None:
        _save_records(folder, pictures, classes, category_ids)
    return Predictions(pictures, skipped)


def find_pictures(paths: Sequence[str | Path], without: Path | None = None) -> list[tuple[Path, str]]:
    """Files and their names: a file is taken whatever it is called, a folder gives its pictures, sorted.

    Names are relative to the folder that was given and made unique. Links to folders are not followed, and the folder
    `without` is left out. ValueError for a path that does not exist.
    """
    found: list[tuple[Path, str]] = []
    taken: set[str] = set()
    excluded = None if without is None else without.resolve()
    for given in map(Path, paths):
        if given.is_dir():
            inside = [file for file in _walk(given, excluded) if file.suffix.lower() in SUFFIXES]
            rows = [(file, file.relative_to(given).as_posix()) for file in inside]
        elif given.exists():
            rows = [(given, given.name)]
        else:
            raise ValueError(f"predict expected a picture or a folder, got {str(given)!r}, which does not exist.")
        for file, name in rows:
            stem, suffix = os.path.splitext(name)
            unique, count = stem, 1
            while unique.casefold() in taken:  # a.png beside a.jpg, and folders that hold the same names
                count += 1
                unique = f"{stem}-{count}"
            taken.add(unique.casefold())
            found.append((file, unique + suffix))
    return found


def _walk(folder: Path, excluded: Path | None) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if (Path(root) / name).resolve() != excluded)
        yield from (Path(root) / name for name in sorted(files))


def _shapes(sample: _Read) -> list[torch.Size]:
    return [resized.shape for resized, _ in sample[1]]


def read_ahead(
    read: Callable[[int], Value], numbers: Iterable[int], workers: int, limit: int
) -> Iterator[tuple[int, Future[Value]]]:
    """The reading of each number, started at most `limit` readings ahead, in order."""
    with ThreadPoolExecutor(workers) as pool:
        running: deque[tuple[int, Future[Value]]] = deque()
        for number in numbers:
            running.append((number, pool.submit(read, number)))
            if len(running) >= limit:
                yield running.popleft()
        yield from running


def picture_target(size_hw: tuple[int, int], image_id: int) -> Target:
    """The target of a picture of which nothing is known but its size."""
    none = torch.zeros(0)
    return Target(none.reshape(0, 4), none.long(), none.bool(), size_hw, size_hw, image_id)


def _save_picture(path: Path, image: Tensor, picture: Picture, classes: Sequence[str], score: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_detections(image, picture.detections, classes, score=score).save(path, quality=90)


def _save_records(
    folder: Path, pictures: Sequence[Picture], classes: Sequence[str], category_ids: Sequence[int]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {picture.image_id: picture.name for picture in pictures}
    found = {picture.image_id: picture.detections for picture in pictures}
    sizes = {picture.image_id: picture.size_hw for picture in pictures}
    save_results(folder / "results.json", found, category_ids, names, sizes)
    images = [
        {"id": p.image_id, "file_name": p.name, "height": p.size_hw[0], "width": p.size_hw[1]} for p in pictures
    ]
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, classes, strict=True)]
    text = json.dumps({"images": images, "categories": categories, "annotations": []})
    (folder / "images.json").write_text(text, encoding="utf-8")
