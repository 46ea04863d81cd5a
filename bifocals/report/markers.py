"""Markers of priors: the shape and the size say the level, the colors what the caller wants to say.

Letters: P priors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import ImageDraw

from bifocals.evaluate.rivals import places_of
from bifocals.structures import Priors

from .color_scale import Color

SHAPES = ("circle", "square", "triangle", "diamond", "plus")
_EDGE: Color = (25, 25, 25)
_RING: Color = (255, 255, 255)


def radius_of(level: int, finest: float) -> float:
    """Pixels: coarser levels are larger, so that priors of two levels at one place are both seen."""
    return finest + level * max(1.2, 0.32 * finest)


def draw_marker(
    draw: ImageDraw.ImageDraw,
    center: tuple[float, float],
    level: int,
    radius: float,
    fill: Color,
    outline: Color | None = None,
    edge: float = 1.0,
) -> None:
    """A marker with a dark edge of `edge` pixels around it, then `outline`, and `fill` inside."""
    shape = SHAPES[level % len(SHAPES)]
    _shape(draw, shape, center, radius + edge, _EDGE)
    if outline is not None:
        _shape(draw, shape, center, radius, outline)
        radius = radius * 0.6 if shape != "plus" else radius - 2 * edge
    _shape(draw, shape, center, radius, fill)


def draw_ring(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, width: float) -> None:
    """A white ring, `width` pixels wide with dark edges, around a marker of this radius; drawn before the marker."""
    x, y = center
    for outer, shade in ((radius + 2.5 * width, _EDGE), (radius + 1.8 * width, _RING)):
        draw.ellipse((x - outer, y - outer, x + outer, y + outer), fill=shade)


def petals(priors: Priors, index: Sequence[int], radius: float) -> list[tuple[float, float]]:
    """How far from their point the priors `index` are drawn: the anchors of one point stand around it, in order.

    Nothing where a point has one prior.
    """
    count = round(len(priors) / max(1, len(places_of(priors))))
    if count <= 1:
        return [(0.0, 0.0)] * len(index)
    starts = priors.level_starts
    shifts = []
    for prior in index:
        start = max(s for s in starts if s <= prior)
        angle = 2 * math.pi * ((prior - start) % count) / count
        shifts.append((radius * math.cos(angle), radius * math.sin(angle)))
    return shifts


def dashed_rectangle(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], color: Color, width: int, dash: float
) -> None:
    """The outline of a box in dashes."""
    x1, y1, x2, y2 = box
    for (ax, ay), (bx, by) in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = math.hypot(bx - ax, by - ay)
        steps = max(1, round(length / (2 * dash)))
        for step in range(steps):
            start, stop = step / steps, (step + 0.55) / steps
            draw.line((ax + (bx - ax) * start, ay + (by - ay) * start, ax + (bx - ax) * stop, ay + (by - ay) * stop),
                      fill=color, width=width)


def _shape(
    draw: ImageDraw.ImageDraw, shape: str, center: tuple[float, float], radius: float, color: Color
) -> None:
    (x, y), r = center, max(radius, 0.5)
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        s = 0.88 * r
        draw.rectangle((x - s, y - s, x + s, y + s), fill=color)
    elif shape == "plus":
        arm = 0.38 * r
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=color)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=color)
    else:
        corners, turn = (3, -math.pi / 2) if shape == "triangle" else (4, 0.0)
        reach = 1.25 * r if shape == "triangle" else 1.15 * r
        angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
        draw.polygon([(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles], fill=color)
