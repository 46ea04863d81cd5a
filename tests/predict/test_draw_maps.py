"""Label maps painted over pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bifocals.predict import class_color, draw_map, palette_picture

CLASSES = ("road", "sky", "never")


def half() -> torch.Tensor:
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:10] = 1
    labels[:, 50:] = 255
    return labels


def test_paint_by_hand():
    image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
    palette = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    picture = np.asarray(draw_map(image, half(), CLASSES, palette=palette, opacity=0.25, legend=False))
    assert picture.shape == (40, 60, 3)
    assert picture[20, 5].tolist() == [125, 75, 75]
    assert picture[5, 5].tolist() == [75, 125, 75]
    assert picture[5, 55].tolist() == [100, 100, 100]  # does not count: left as it is
    assert bool((image == 100).all())


def test_the_legend_names_what_occurs_below_the_picture():
    image = Image.new("RGB", (60, 40))
    plain, told = draw_map(image, half(), CLASSES, legend=False), draw_map(image, half(), CLASSES)
    assert told.width == plain.width and told.height > plain.height
    assert np.array_equal(np.asarray(told)[:40], np.asarray(plain))
    below = {tuple(color) for color in np.asarray(told)[40:].reshape(-1, 3).tolist()}
    assert {class_color(0), class_color(1)} <= below
    assert class_color(2) not in below
    nothing = draw_map(image, torch.full((40, 60), 255, dtype=torch.uint8), CLASSES)
    assert nothing.size == image.size


def test_a_palette_picture_keeps_the_labels():
    stream = io.BytesIO()
    palette_picture(half(), 3, ((1, 2, 3), (4, 5, 6), (7, 8, 9))).save(stream, "PNG")
    picture = Image.open(stream)
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), half().numpy())
    assert picture.convert("RGB").getpixel((5, 5)) == (4, 5, 6)
    assert picture.convert("RGB").getpixel((55, 5)) == (0, 0, 0)


def test_what_does_not_fit_is_refused():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the picture's 40 x 60 pixels, got 40 x 50"):
        draw_map(image, half()[:, :50], CLASSES)
    with pytest.raises(ValueError, match="uint8 \\[H, W\\], got torch.int64"):
        draw_map(image, half().long(), CLASSES)
    with pytest.raises(ValueError, match="a color for each of 3 classes, got 1"):
        draw_map(image, half(), CLASSES, palette=((0, 0, 0),))
    with pytest.raises(ValueError, match="RGB bytes"):
        draw_map(image.float(), half(), CLASSES)
    with pytest.raises(ValueError, match="opacity"):
        draw_map(image, half(), CLASSES, opacity=2)
