"""Label maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bifocals.structures import IGNORED

from .draw import class_color

Color = tuple[int, int, int]


def map_palette(num_classes: int, palette: Sequence[Color] | None = None) -> NDArray[np.uint8]:
    """[256 3] the color of every label: the set's own, else distinct ones; black where a label is no class."""
    if palette is not None and len(palette) < num_classes:
        raise ValueError(f"map_palette expected a color for each of {num_classes} classes, got {len(palette)}.")
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[:num_classes] = [class_color(i) for i in range(num_classes)] if palette is None else palette[:num_classes]
    return colors


def palette_picture(labels: Tensor, num_classes: int, palette: Sequence[Color] | None = None) -> Image.Image:
    """The label map as a palette picture: a pixel's value is its label, and any viewer shows its color. Save as PNG."""
    picture = Image.fromarray(_bytes(labels))
    picture.putpalette(map_palette(num_classes, palette).tobytes())
    return picture


def draw_map(
    image: Image.Image | Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    palette: Sequence[Color] | None = None,
    opacity: float = 0.55,
    legend: bool = True,
) -> Image.Image:
    """A copy of the picture with its label map painted over it, and below it a legend of the classes that occur.

    image: a PIL picture, or RGB bytes [3 H W]. labels: uint8 [H W]; pixels labeled 255 stay as they are. palette: RGB
    of each class, distinct colors where None. opacity: of the paint, from 0 to 1. legend: largest class first, with its
    share of the pixels that have a class; the picture grows by it.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"draw_map expected an opacity from 0 to 1, got {opacity}.")
    pixels = _rgb(image)
    bytes_ = _bytes(labels)
    if pixels.shape[:2] != bytes_.shape:
        raise ValueError(f"draw_map expected labels of the picture's {pixels.shape[0]} x {pixels.shape[1]} pixels, got "
                         f"{bytes_.shape[0]} x {bytes_.shape[1]}.")
    colors = map_palette(len(classes), palette)
    mixed = pixels * (1 - opacity) + colors[bytes_] * opacity
    painted = np.where((bytes_ != IGNORED)[..., None], mixed.round().astype(np.uint8), pixels)
    picture = Image.fromarray(np.ascontiguousarray(painted))
    return _with_legend(picture, bytes_, classes, colors) if legend else picture


def _with_legend(
    picture: Image.Image, labels: NDArray[np.uint8], classes: Sequence[str], colors: NDArray[np.uint8]
) -> Image.Image:
    counts = np.bincount(labels.ravel(), minlength=256)[:IGNORED]
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    if not order:
        return picture
    font = ImageFont.load_default(size=max(10, round(min(picture.size) / 30)))
    measure = ImageDraw.Draw(picture)
    texts = []
    for label in order:
        name = classes[label] if label < len(classes) else str(label)
        if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has Latin letters only
            name = name.encode("latin-1", "replace").decode("latin-1")
        texts.append(f"{name} {100 * counts[label] / counts.sum():.1f} %")
    high = max(round(b - t) for _, t, _, b in (measure.textbbox((0, 0), text, font=font) for text in texts)) + 6
    places, x, y = [], 0, 0
    for text in texts:
        wide = high + 4 + round(measure.textlength(text, font=font)) + 10
        if x and x + wide > picture.width:
            x, y = 0, y + high
        places.append((x, y))
        x += wide
    grown = Image.new("RGB", (picture.width, picture.height + y + high + 2), (255, 255, 255))
    grown.paste(picture)
    draw = ImageDraw.Draw(grown)
    for label, text, (x, y) in zip(order, texts, places, strict=True):
        top = picture.height + y + 2
        draw.rectangle((x + 2, top + 2, x + high - 3, top + high - 4), fill=tuple(int(c) for c in colors[label]))
        draw.text((x + high + 2, top + high / 2), text, fill=(0, 0, 0), font=font, anchor="lm")
    return grown


def _rgb(image: Image.Image | Tensor) -> NDArray[np.uint8]:
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"draw_map expected RGB bytes of shape [3, H, W], got {image.dtype} of shape "
                             f"{list(image.shape)}; a PIL picture is taken as well.")
        return np.asarray(image.permute(1, 2, 0).cpu().numpy())
    return np.asarray(image.convert("RGB"))


def _bytes(labels: Tensor) -> NDArray[np.uint8]:
    if labels.ndim != 2 or labels.dtype != torch.uint8:
        raise ValueError(f"A label map was expected as uint8 [H, W], got {labels.dtype} of shape {list(labels.shape)}.")
    return np.ascontiguousarray(labels.cpu().numpy())
