from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest

from bifocals.data import Data, check_dataset, draw_scenes, open_split, save_scenes
from bifocals.data.synthetic import run_lengths


def decode(segmentation: dict[str, Any]) -> np.ndarray:
    flat = np.repeat(np.arange(len(segmentation["counts"])) % 2, segmentation["counts"]).astype(bool)
    return flat.reshape(segmentation["size"], order="F")


def test_scenes_are_functions_of_seed_and_number() -> None:
    scenes = list(draw_scenes(4, (96, 128), 3, seed=7))
    again = list(draw_scenes(2, (96, 128), 3, seed=7, first=2))
    for ours, theirs in zip(scenes[2:], again, strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.masks, theirs.masks)
    other = next(draw_scenes(1, (96, 128), 3, seed=8))
    assert not np.array_equal(scenes[0].image, other.image)
    assert scenes[0].image.shape == (96, 128, 3)
    assert scenes[0].image.dtype == np.uint8


def test_boxes_and_masks_are_exact() -> None:
    overlaps = objects = 0
    for scene in draw_scenes(30, (160, 160), 8, seed=1):
        assert scene.masks.sum(axis=0).max() <= 1  # a pixel shows one object
        assert len(scene.boxes) == len(scene.labels) == len(scene.masks)
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (scene.visible >= 0.3).all()
        assert (scene.visible <= 1).all()
        overlaps += int((scene.visible < 0.95).sum())
        objects += len(scene.boxes)
    assert objects / 30 > 6
    assert overlaps / objects > 0.25  # crowded
    assert set(np.concatenate([s.labels for s in draw_scenes(30, (160, 160), 8, seed=1)])) == set(range(8))


def test_nothing_is_seen_of_what_is_not_annotated() -> None:
    """The scene without any object is the same picture, but for shadows, wherever no mask lies."""
    with_objects = next(draw_scenes(1, (160, 160), 4, seed=3))
    without = next(draw_scenes(1, (160, 160), 4, seed=3, objects=(0, 0)))
    assert len(without.boxes) == 0
    free = ~with_objects.masks.any(axis=0)
    # A soft edge reaches a pixel beyond its mask, and a shadow three; neither brings in new colors.
    ratio = with_objects.image[free].astype(float).sum(axis=1) / without.image[free].astype(float).sum(axis=1).clip(1)
    assert np.mean(np.abs(ratio - 1) < 0.02) > 0.9
    assert np.quantile(ratio, 0.005) > 0.4


def test_objects_differ_from_what_surrounds_them() -> None:
    contrasts = []
    for scene in draw_scenes(20, (160, 160), 4, seed=5):
        for mask in scene.masks:
            inside = scene.image[mask].astype(float)
            contrasts.append(np.abs(inside.mean(axis=0) - scene.image[~mask].mean(axis=0)).max())
            assert inside.std() > 2  # textured
    assert np.median(contrasts) > 25


def test_speed() -> None:
    list(draw_scenes(2))
    start = process_time()
    list(draw_scenes(30, (160, 160)))
    assert 30 / (process_time() - start) > 30


def test_saved_set(tmp_path: Path) -> None:
    root = save_scenes(tmp_path / "scenes", train=5, val=3, hw=(96, 128), num_classes=3, seed=2)
    assert check_dataset(root) == []
    train, val = (open_split(Data(root=str(root)), split, log=None) for split in ("train", "val"))  # type: ignore[arg-type]
    assert (len(train), len(val)) == (5, 3)
    assert train.classes == val.classes == ("disc", "box", "triangle")
    scenes = list(draw_scenes(8, (96, 128), 3, seed=2))
    for index in range(3):
        boxes, labels, _ = val.objects(index)
        np.testing.assert_array_equal(boxes, scenes[5 + index].boxes)
        np.testing.assert_array_equal(labels, scenes[5 + index].labels)
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    masks = np.concatenate([scene.masks for scene in scenes[:5]])
    assert len(content["annotations"]) == len(masks)
    for record, mask in zip(content["annotations"], masks, strict=True):
        np.testing.assert_array_equal(decode(record["segmentation"]), mask)
        assert record["area"] == mask.sum()
    assert json.dumps(content) == (save_scenes(tmp_path / "again", train=5, val=0, hw=(96, 128), num_classes=3, seed=2)
                                   / "annotations" / "instances_train2017.json").read_text()  # fmt: skip


def test_run_lengths_of_a_mask_that_starts_with_ones() -> None:
    mask = np.array([[1, 0], [1, 1]], dtype=bool)
    assert run_lengths(mask) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    assert run_lengths(np.zeros((2, 3), dtype=bool))["counts"] == [6]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_classes": 9}, "1 to 8 classes, got 9"),
        ({"hw": (16, 160)}, r"at least 32 pixels, got \(16, 160\)"),
        ({"min_visible": 0.0}, "min_visible=0.0"),
        ({"objects": (5, 2)}, r"objects=\(5, 2\)"),
    ],
)
def test_options_are_judged(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        list(draw_scenes(1, **options))
