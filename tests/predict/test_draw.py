"""Pictures with boxes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from bifocals.predict import class_color, draw_detections
from bifocals.structures import Detections

GRAY = (128, 128, 128)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = torch.tensor([row[:5] for row in rows]).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], torch.tensor([row[5] for row in rows], dtype=torch.int64))


def test_a_box_is_drawn_in_the_color_of_its_class_and_the_picture_is_left_alone() -> None:
    image = Image.new("RGB", (200, 100), GRAY)
    picture = draw_detections(image, detections((20, 40, 120, 90, 0.9, 1)), ["a", "b"])
    assert picture.getpixel((70, 90)) == class_color(1)
    assert picture.getpixel((20, 70)) == class_color(1)
    assert picture.getpixel((70, 65)) == GRAY
    assert picture.getpixel((22, 39)) != GRAY  # the plate of the name, above the box
    assert image.getcolors() == [(200 * 100, GRAY)]


def test_only_detections_above_the_score_are_drawn_and_the_best_lies_on_top() -> None:
    image = Image.new("RGB", (200, 100), GRAY)
    rows = detections((20, 40, 120, 90, 0.9, 0), (20, 40, 120, 90, 0.5, 1), (150, 40, 190, 90, 0.2, 2))
    picture = draw_detections(image, rows, ["a", "b", "c"])
    assert picture.getpixel((70, 90)) == class_color(0)
    assert picture.getpixel((170, 90)) == GRAY
    assert draw_detections(image, rows, ["a", "b", "c"], score=0.1).getpixel((170, 90)) == class_color(2)


def test_awkward_boxes_and_names_do_not_fail() -> None:
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    rows = detections(
        (-20, -20, 200, 200, 0.9, 0), (60, 50, 60, 50, 0.8, 1), (30, 30, 10, 10, 0.8, 2), (0, 0, 1, 1, 1, 7)
    )
    picture = draw_detections(image, rows, ["猫 🐈", "", "a name that is much longer than the picture is wide"])
    assert picture.size == (60, 50)


def test_masks_are_painted_and_the_best_has_the_pixel() -> None:
    image = Image.new("RGB", (200, 100), GRAY)
    rows = detections((20, 20, 120, 80, 0.9, 1), (70, 20, 170, 80, 0.5, 2), (0, 0, 200, 100, 0.1, 3))
    left, right = torch.zeros(4, 4), torch.ones(4, 4)
    left[:, :3] = 1.0  # to x = 95
    picture = draw_detections(image, replace(rows, masks=torch.stack([left, right, right])), ["a"] * 4, opacity=0.25)

    def mixed(label: int) -> tuple[int, ...]:
        return tuple(round(0.75 * 128 + 0.25 * c) for c in class_color(label))

    assert picture.getpixel((40, 50)) == picture.getpixel((80, 50)) == mixed(1)
    assert picture.getpixel((110, 50)) == mixed(2)  # within the box of the best, beyond its mask
    assert picture.getpixel((185, 90)) == GRAY  # the third lies below the score
    assert image.getcolors() == [(200 * 100, GRAY)]
    with pytest.raises(ValueError, match="an opacity from 0 to 1, got 2"):
        draw_detections(image, rows, ["a"], opacity=2)


def test_a_tensor_and_a_picture_give_the_same() -> None:
    image = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    rows = detections((5, 15, 50, 35, 0.9, 0))
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert draw_detections(image, rows, ["a"]).tobytes() == draw_detections(pil, rows, ["a"]).tobytes()
    with pytest.raises(ValueError, match=r"got torch.float32 of shape \[3, 40, 60\]"):
        draw_detections(image.float(), rows, ["a"])


def test_neighboring_classes_have_different_colors() -> None:
    colors = [class_color(label) for label in range(80)]
    assert len(set(colors)) == 80
    for a, b in pairwise(colors):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 150
