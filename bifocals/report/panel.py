"""One panel of the picture of an assignment: the image, its objects and the priors that were taken.

Letters: M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bifocals.evaluate import Choice, ImageAssignment
from bifocals.predict import class_color

from .color_scale import Color, ColorScale, mix
from .markers import dashed_rectangle, draw_marker, draw_ring, petals, radius_of
from .page import WHITE

FINE = 2
"""How many times finer panels are drawn than they are shown: edges become smooth."""

_CROWD: Color = (110, 110, 110)


@dataclass(frozen=True)
class View:
    """What part of the image a panel shows: x1, y1, x2, y2 in pixels of the image, `scale` times enlarged."""

    window: tuple[float, float, float, float]
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        x1, y1, x2, y2 = self.window
        return max(1, round((x2 - x1) * self.scale)), max(1, round((y2 - y1) * self.scale))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A point of the image in pixels of the panel, drawn `FINE` times finer."""
        factor = self.scale * FINE
        return (x - self.window[0]) * factor, (y - self.window[1]) * factor

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        return (*self.place(box[0], box[1]), *self.place(box[2], box[3]))


class Panel:
    """Draws onto the image, step by step; `done` gives the panel."""

    def __init__(self, look: ImageAssignment, view: View) -> None:
        self.look, self.view = look, view
        picture = Image.fromarray(np.ascontiguousarray(look.image.permute(1, 2, 0).numpy()))
        width, height = view.size
        picture = picture.resize((width * FINE, height * FINE), Image.Resampling.BICUBIC, box=view.window)
        # Pale and gray, so that colors on it are the markers'.
        gray = picture.convert("L").convert("RGB")
        self.picture = Image.blend(Image.blend(picture, gray, 0.75), Image.new("RGB", picture.size, WHITE), 0.25)
        self.draw = ImageDraw.Draw(self.picture)
        self.labels: list[tuple[tuple[float, float], str, Color]] = []

    def objects(self, without: Sequence[int] = (), only: int | None = None, numbers: bool = True) -> None:
        """The boxes of the objects in their colors, those `without` any prior in dashes; crowd regions in gray."""
        for region in self.look.target.regions.tolist():
            dashed_rectangle(self.draw, self.view.box(region), _CROWD, FINE, 3 * FINE)
            self.label(self.view.place(region[0], region[1]), "crowd", _CROWD)
        boxes = self.look.target.boxes.tolist()
        # Numbers hide what is under them, and in a crowd there is no room for them.
        readable = numbers and len(boxes) <= 60
        for number, box in enumerate(boxes):
            if only is not None and number != only:
                continue
            color, place = class_color(number), self.view.box(box)
            if number in without:
                dashed_rectangle(self.draw, place, color, 2 * FINE, 4 * FINE)
            else:
                self.draw.rectangle(place, outline=color, width=FINE if len(boxes) > 60 else round(1.5 * FINE))
            if readable or number in without:
                self.label((place[0], place[1]), f"{number}", color)

    def pairs(
        self,
        choice: Choice,
        fills: Sequence[Color],
        *,
        outlined: bool,
        finest: float,
        order: Sequence[float] | None = None,
    ) -> None:
        """The priors of the pairs, each in its fill; coarse levels below, and on one level the smaller `order` below.

        outlined: the object's color goes around the fill. finest: radius of the markers of the finest level, in pixels
        of the panel.
        """
        points = choice.priors.points[choice.match.prior].tolist()
        levels, objects = choice.level.tolist(), choice.match.gt.tolist()
        shifts, crowded = self._around(choice)
        finest = 0.55 * finest if crowded else finest
        rank = order or [0.0] * len(choice)
        for m in sorted(range(len(choice)), key=lambda m: (-levels[m], rank[m])):
            x, y = self.view.place(*points[m])
            center = (x + shifts[m][0], y + shifts[m][1])
            color = class_color(objects[m])
            radius = radius_of(levels[m], finest) * FINE
            if bool(choice.extra[m]):
                draw_ring(self.draw, center, radius, 1.3 * FINE)
            draw_marker(self.draw, center, levels[m], radius, fills[m], color if outlined else None, 0.75 * FINE)

    def _around(self, choice: Choice) -> tuple[list[tuple[float, float]], bool]:
        """How far from their points the priors are drawn, and whether points have several."""
        reach = 0.32 * float(choice.priors.strides.min()) * self.view.scale * FINE if len(choice) else 0.0
        shifts = petals(choice.priors, choice.match.prior.tolist(), reach)
        return shifts, any(shift != (0.0, 0.0) for shift in shifts)

    def label(self, corner: tuple[float, float], text: str, color: Color) -> None:
        """A small plate with a text above a place, written once the panel has its final size."""
        self.labels.append((corner, text, color))

    def done(self) -> Image.Image:
        picture = self.picture.resize(self.view.size, Image.Resampling.BOX)
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
        for (x, y), text, color in self.labels:
            _plate(draw, text, (x / FINE, y / FINE), color, font, picture.size)
        return picture


def weight_fills(choice: Choice) -> list[Color]:
    """The color of each object, the paler the less a pair counts beside the one that counts most; by logarithms where
    the weights span much. White is no weight at all."""
    colors = [class_color(number) for number in choice.match.gt.tolist()]
    weight = choice.class_weight()
    if weight is None or not len(choice):
        return colors
    values = weight.tolist()
    scale = ColorScale.of(v for v in values if v > 0)

    def share_of(value: float) -> float:
        if not value > 0:
            return 0.0
        return 0.1 + 0.9 * (scale.place(value) or 0.0) if scale.log else value / scale.high

    shares = [share_of(v) for v in values]
    return [mix(WHITE, color, share) for color, share in zip(colors, shares, strict=True)]


def _plate(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    color: Color,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), size[0] - wide)
    y = min(max(corner[1] - high, 0), size[1] - high)
    draw.rectangle((x, y, x + wide, y + high), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if bright else WHITE, font=font)
