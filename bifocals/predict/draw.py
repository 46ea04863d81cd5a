"""Detections as pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bifocals.structures import Detections

from .paste import paste_masks

_GOLDEN = 0.618034  # a step round the color circle by this part never comes back to where it was


def class_color(label: int) -> tuple[int, int, int]:
    """The RGB color of a class: neighbors differ strongly, and the same class always has the same color."""
    hue = (0.02 + label * _GOLDEN) % 1
    value = (1.0, 0.8, 0.9)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(
    image: Image.Image | torch.Tensor,
    detections: Detections,
    classes: Sequence[str],
    *,
    score: float = 0.3,
    line_width: int | None = None,
    opacity: float = 0.45,
) -> Image.Image:
    """A copy of the picture with the boxes, class names and scores of the detections above `score`, best on top.

    Detections with masks are painted in the color of their class. image: a PIL picture, or RGB bytes [3 H W]. Boxes are
    pixels of this picture. line_width: pixels, None for a width that suits the size of the picture. opacity: of the
    paint of masks, from 0 to 1. A label without a name is written as its number.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"draw_detections expected an opacity from 0 to 1, got {opacity}.")
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"draw_detections expected RGB bytes of shape [3, H, W], got {image.dtype} of shape "
                             f"{list(image.shape)}; a PIL picture is taken as well.")
        image = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    picture = image.convert("RGB")
    if picture is image:
        picture = image.copy()
    shown = detections.cpu().above(score)
    if shown.masks is not None and len(shown):
        picture = _painted(picture, shown, opacity)
    width = line_width or max(1, round(min(picture.size) / 250))
    font = ImageFont.load_default(size=max(10, round(min(picture.size) / 35)))
    draw = ImageDraw.Draw(picture)
    rows = list(zip(shown.boxes.tolist(), shown.scores.tolist(), shown.labels.tolist(), strict=True))
    for box, value, label in reversed(rows):
        color = class_color(label)
        x1, y1, x2, y2 = box
        if x2 >= x1 and y2 >= y1:  # NMS-free outputs may hold boxes without area, Pillow refuses turned ones
            draw.rectangle((x1, y1, x2, y2), outline=color, width=width)
        name = classes[label] if 0 <= label < len(classes) else str(label)
        _write(draw, f"{name} {value:.2f}", (x1, y1), color, font, picture.size)
    return picture


def _painted(picture: Image.Image, shown: Detections, opacity: float) -> Image.Image:
    """Each pixel of a mask mixed with the color of the best detection that has it."""
    assert shown.masks is not None
    pixels = np.array(picture)
    free = np.ones(pixels.shape[:2], dtype=bool)
    rows = zip(shown.boxes.split(1), shown.masks.split(1), shown.labels.tolist(), strict=True)
    for box, mask, label in rows:  # one at a time: a hundred masks of a large picture would fill the memory
        mine = paste_masks(mask, box, (picture.height, picture.width))[0].numpy().astype(bool) & free
        mixed = pixels[mine] * (1 - opacity) + np.array(class_color(label)) * opacity
        pixels[mine] = mixed.round().astype(np.uint8)
        free &= ~mine
    return Image.fromarray(pixels)


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Text on a plate of the color, above the corner where there is room, else below it, always inside the picture."""
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has Latin letters only
        text = text.encode("latin-1", "replace").decode("latin-1")
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else corner[1]
    y = min(max(y, 0), max(size[1] - high, 0))
    draw.rectangle((x, y, x + wide, y + high), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)
