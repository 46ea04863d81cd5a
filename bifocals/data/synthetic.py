"""Crowded scenes drawn from a seed, with exact boxes and masks of what is visible of each object.

Letters: N objects, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from PIL import Image

from .annotations import Annotations, pack_annotations
from .coco import save_coco
from .painting import SHAPES, paint_background, paint_object

_TRIES = 6  # places tried for an object before it is given up


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture and its objects, back to front.

    boxes: xyxy pixels around the visible pixels. masks: the visible pixels, which no two objects share.
    visible: the share of each object's pixels in the picture that nothing hides.
    """

    image: UInt8[np.ndarray, "H W 3"]
    boxes: Float[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, "N"]
    masks: Bool[np.ndarray, "N H W"]
    visible: Float[np.ndarray, "N"]


def scene_classes(num_classes: int) -> tuple[str, ...]:
    """The names of the classes of scenes: shapes. Raises ValueError where there are not so many."""
    if not 1 <= num_classes <= len(SHAPES):
        raise ValueError(f"Scenes expected 1 to {len(SHAPES)} classes, got {num_classes}; the shapes are "
                         f"{', '.join(SHAPES)}.")  # fmt: skip
    return tuple(SHAPES)[:num_classes]


def draw_scenes(
    num: int,
    hw: tuple[int, int] = (160, 160),
    num_classes: int = 3,
    seed: int = 0,
    *,
    objects: tuple[int, int] = (6, 14),
    size: tuple[float, float] = (0.12, 0.36),
    min_visible: float = 0.3,
    first: int = 0,
) -> Iterator[Scene]:
    """Scenes number `first` to `first + num - 1` of a seed; each depends on the seed and its own number alone.

    objects: the fewest and the most tried to place. size: of an object, as shares of the scene's shorter side.
    min_visible: no object in a scene shows less than this share of itself, so none is there without an annotation.
    """
    names = scene_classes(num_classes)
    if min(hw) < 32:
        raise ValueError(f"draw_scenes expected a height and width of at least 32 pixels, got {hw}.")
    if not 0 < min_visible <= 1 or not 0 < size[0] <= size[1] or not 0 <= objects[0] <= objects[1]:
        raise ValueError(
            "draw_scenes expected 0 < min_visible <= 1, and objects and size with the smaller number first, got "
            f"min_visible={min_visible}, objects={objects}, size={size}."
        )
    for number in range(first, first + num):
        draws = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
        yield _draw(draws, hw, names, objects, size, min_visible)


def save_scenes(
    folder: Path | str,
    *,
    train: int = 200,
    val: int = 50,
    hw: tuple[int, int] = (160, 160),
    num_classes: int = 3,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Draws a COCO set: annotations/instances_{train,val}2017.json with RLE masks, and the pictures as JPEG.

    options: those of `draw_scenes`. The val scenes follow the train scenes in the seed's numbers.
    """
    folder = Path(folder)
    for split, number, first in (("train2017", train, 0), ("val2017", val, train)):
        pictures = folder / split
        pictures.mkdir(parents=True, exist_ok=True)
        scenes = draw_scenes(number, hw, num_classes, seed, first=first, **options)
        annotations, segmentations = _write(scenes, pictures, hw, scene_classes(num_classes), first)
        save_coco(annotations, folder / "annotations" / f"instances_{split}.json", segmentations)
    return folder


def _draw(
    draws: np.random.Generator,
    hw: tuple[int, int],
    names: tuple[str, ...],
    objects: tuple[int, int],
    size: tuple[float, float],
    min_visible: float,
) -> Scene:
    canvas = paint_background(hw, draws)
    owner = np.full(hw, -1, dtype=np.int64)  # the object seen at each pixel
    labels: list[int] = []
    areas: list[int] = []  # pixels of each object inside the picture, hidden or not
    placed: list[tuple[float, float, float]] = []
    for _ in range(int(draws.integers(objects[0], objects[1] + 1))):
        label = int(draws.integers(len(names)))
        radius = float(draws.uniform(*size)) * min(hw) / 2
        hue = label / len(names) + draws.normal(0, 0.05)
        coverage, colors = paint_object(names[label], radius, hue, draws)
        for _ in range(_TRIES):
            window, part = _place(hw, coverage.shape[0], placed, radius, draws)
            solid = coverage[part] > 0.5
            if not _fits(owner[window], solid, int((coverage > 0.5).sum()), owner, areas, min_visible):
                continue
            _shadow(canvas, coverage, window, part, draws)
            alpha = coverage[part][..., None]
            canvas[window] += (colors[part] - canvas[window]) * alpha
            owner[window][solid] = len(labels)
            labels.append(label)
            areas.append(int(solid.sum()))
            center = (window[0].start + window[0].stop) / 2, (window[1].start + window[1].stop) / 2
            placed.append((*center, radius))
            break
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    masks = owner == np.arange(len(labels))[:, None, None]  # [N H W]
    boxes = np.zeros((len(labels), 4))
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    visible = masks.sum(axis=(1, 2)) / np.maximum(1, np.array(areas, dtype=np.float64))
    return Scene(image, boxes, np.array(labels, dtype=np.int64), masks, visible)


def _place(
    hw: tuple[int, int], side: int, placed: list[tuple[float, float, float]], radius: float, draws: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where an object goes: the window of the picture, and the part of the object's own window that lies in it."""
    height, width = hw
    if placed and draws.uniform() < 0.7:  # crowds: beside another object, near enough to overlap
        y, x, other = placed[int(draws.integers(len(placed)))]
        angle, way = draws.uniform(0, 2 * np.pi), draws.uniform(0.5, 1.15) * (radius + other)
        y, x = y + way * np.sin(angle), x + way * np.cos(angle)
    else:
        y, x = draws.uniform(0, height), draws.uniform(0, width)
    y, x = np.clip(y, 0.3 * radius, height - 0.3 * radius), np.clip(x, 0.3 * radius, width - 0.3 * radius)
    top, left = round(float(y)) - side // 2, round(float(x)) - side // 2
    rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
    part = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    return (rows, columns), part


def _fits(
    seen: np.ndarray, solid: np.ndarray, whole: int, owner: np.ndarray, areas: list[int], min_visible: float
) -> bool:
    """Whether the object is mostly in the picture and leaves enough to see of those that it covers."""
    if solid.sum() < 0.5 * whole:
        return False
    hidden = np.bincount(seen[solid] + 1, minlength=len(areas) + 1)[1:]
    for other in np.flatnonzero(hidden):
        left = int((owner == other).sum()) - int(hidden[other])
        if left < min_visible * areas[other]:
            return False
    return True


def _shadow(
    canvas: np.ndarray,
    coverage: np.ndarray,
    window: tuple[slice, slice],
    part: tuple[slice, slice],
    draws: np.random.Generator,
) -> None:
    """Darkens what lies below and right of the object, as if it stood a little above it."""
    shift = int(draws.integers(1, 4))
    shifted = np.zeros_like(coverage)
    shifted[shift:, shift:] = coverage[:-shift, :-shift]
    canvas[window] *= 1 - draws.uniform(0.15, 0.45) * shifted[part][..., None]


def _write(
    scenes: Iterator[Scene], pictures: Path, hw: tuple[int, int], names: tuple[str, ...], first: int
) -> tuple[Annotations, list[dict[str, Any]]]:
    """Saves the pictures and gathers the annotations, with an RLE for each object."""
    boxes, labels, owners, areas, segmentations, files = [], [], [], [], [], []
    for index, scene in enumerate(scenes):
        files.append(f"{first + index:06d}.jpg")
        Image.fromarray(scene.image).save(pictures / files[-1], quality=95)
        boxes.append(scene.boxes)
        labels.append(scene.labels)
        owners.append(np.full(len(scene.labels), index, dtype=np.int64))
        areas.append(scene.masks.sum(axis=(1, 2)).astype(np.float64))
        segmentations += [run_lengths(mask) for mask in scene.masks]
    empty = np.zeros(0)
    all_labels = np.concatenate([empty, *labels]).astype(np.int64)
    packed, _ = pack_annotations(
        pictures,
        files,
        np.arange(first, first + len(files), dtype=np.int64),
        np.tile(np.array(hw, dtype=np.int32), (len(files), 1)).reshape(-1, 2),
        np.concatenate([empty, *owners]).astype(np.int64),
        np.concatenate([np.zeros((0, 4)), *boxes]),
        all_labels,
        np.zeros(len(all_labels), dtype=bool),
        np.concatenate([empty, *areas]),
        names,
        range(1, len(names) + 1),
        upright=False,
    )
    return packed, segmentations


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """COCO's uncompressed RLE: lengths of runs down the columns, the first of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    lengths = ([0] if flat[0] else []) + runs.tolist()
    return {"size": list(mask.shape), "counts": lengths}
