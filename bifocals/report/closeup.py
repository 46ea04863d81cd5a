"""One object of the picture of an assignment, close: its priors by letters, and beside them what each counts.

The paper of HCRAL (arXiv:2408.17182) shows its losses so, on four anchors of one object (Figure 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from bifocals.evaluate import Choice, ImageAssignment
from bifocals.predict import class_color

from .color_scale import Color, number
from .markers import draw_marker, draw_ring, radius_of
from .page import INK, SOFT, WHITE, Font
from .panel import FINE, Panel, View, weight_fills

PLAIN, EXTRA = 6, 6
"""Priors shown of an object: those that count most of the ones that are no extras, and of the extras."""

_SIDE = 460
_ROW = 32
_RADIUS = 10
_BAR: Color = (176, 202, 228)
_FAINT: Color = (225, 225, 225)


@dataclass(frozen=True)
class Column:
    """A column of the table: its group, its head, and a number of each shown prior."""

    group: str
    head: str
    values: list[float]


def focus_of(choice: Choice, num_objects: int) -> int | None:
    """The object to show: that of the most extras, then of the most priors; None where none has any."""
    if not len(choice):
        return None
    total, extras = choice.per_object(num_objects), [0] * num_objects
    for gt in choice.match.gt[choice.extra].tolist():
        extras[gt] += 1
    return max(range(num_objects), key=lambda g: (extras[g], total[g]))


def shown_pairs(choice: Choice, object_number: int) -> list[int]:
    """The pairs of an object that get letters: first those that count most, then the extras."""
    weight = choice.class_weight()
    rank = [0.0] * len(choice) if weight is None else weight.tolist()
    mine = [m for m, gt in enumerate(choice.match.gt.tolist()) if gt == object_number]
    mine.sort(key=lambda m: -rank[m])
    extra = choice.extra.tolist()
    return [m for m in mine if not extra[m]][:PLAIN] + [m for m in mine if extra[m]][:EXTRA]


def columns_of(choice: Choice, shown: list[int]) -> list[Column]:
    """Score and IoU, then all that each loss tells."""
    found = []
    if choice.score is not None and choice.iou is not None:
        for head, values in (("score", choice.score), ("IoU", choice.iou)):
            found.append(Column("prediction", head, values[shown].tolist()))
    for loss, factors in choice.factors.items():
        named = {**factors.details, **factors.factors} | ({"weight": factors.weight} if factors.factors else {})
        found += [Column(f"loss {loss}", head, values[shown].tolist()) for head, values in named.items()]
    return found


def closeup(look: ImageAssignment, choice: Choice, object_number: int, width: int) -> Image.Image:
    """The object with its lettered priors at the left, and the table at the right, `width` pixels together."""
    shown = shown_pairs(choice, object_number)
    letters = [chr(ord("A") + k) for k in range(len(shown))]
    picture = _picture(look, choice, object_number, shown, letters)
    table = _table(choice, shown, letters, object_number, width - _SIDE - 24)
    sheet = Image.new("RGB", (width, max(picture.height, table.height) + 8), WHITE)
    sheet.paste(picture, (0, 8))
    sheet.paste(table, (_SIDE + 24, 8))
    return sheet


def _picture(
    look: ImageAssignment, choice: Choice, object_number: int, shown: list[int], letters: list[str]
) -> Image.Image:
    view = _view(look, choice, object_number, shown)
    panel = Panel(look, view)
    panel.objects(only=object_number, numbers=False)
    points = [view.place(*point) for point in choice.priors.points[choice.match.prior[shown]].tolist()]
    places, levels = _apart(points, 2.4 * _RADIUS * FINE), choice.level.tolist()
    fills, color = weight_fills(choice), class_color(object_number)
    for point, place in zip(points, places, strict=True):
        panel.draw.line((*point, *place), fill=INK, width=FINE)
        panel.draw.ellipse([point[0] - 5, point[1] - 5, point[0] + 5, point[1] + 5], fill=INK)
    for m, place in zip(shown, places, strict=True):
        if bool(choice.extra[m]):
            draw_ring(panel.draw, place, _size(levels[m]) * FINE, 1.5 * FINE)
        draw_marker(panel.draw, place, levels[m], _size(levels[m]) * FINE, fills[m], color, 0.75 * FINE)
    picture = panel.done()
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    for m, (x, y), letter in zip(shown, places, letters, strict=True):
        _centered(draw, letter, (x / FINE, y / FINE), fills[m], font)
    return picture


def _size(level: int) -> float:
    return min(radius_of(level, _RADIUS), 1.5 * _RADIUS)


def _apart(points: list[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """Places as near to the points as they can be without one hiding another: `least` pixels between two."""
    places = [list(p) for p in points]
    for _ in range(60):
        for i in range(len(places)):
            for j in range(i):
                dx, dy = places[i][0] - places[j][0], places[i][1] - places[j][1]
                gap = math.hypot(dx, dy)
                if gap < least:
                    angle = math.atan2(dy, dx) if gap > 1e-3 else 2.4 * i  # a direction of its own for each
                    push = (least - gap) / 2
                    for k, sign in ((i, 1), (j, -1)):
                        places[k][0] += sign * push * math.cos(angle)
                        places[k][1] += sign * push * math.sin(angle)
    return [(x, y) for x, y in places]


def _view(look: ImageAssignment, choice: Choice, object_number: int, shown: list[int]) -> View:
    """A square around the object and its priors."""
    x1, y1, x2, y2 = look.target.boxes[object_number].tolist()
    points = choice.priors.points[choice.match.prior[shown]].tolist()
    x1, y1 = min([x1, *(x for x, _ in points)]), min([y1, *(y for _, y in points)])
    x2, y2 = max([x2, *(x for x, _ in points)]), max([y2, *(y for _, y in points)])
    height, width = look.target.size_hw
    reach = max(1.15 * max(x2 - x1, y2 - y1), 24.0)
    wide, high = min(reach, width), min(reach, height)
    left = min(max((x1 + x2 - wide) / 2, 0), width - wide)
    top = min(max((y1 + y2 - high) / 2, 0), height - high)
    return View((left, top, left + wide, top + high), _SIDE / max(wide, high))


def _table(choice: Choice, shown: list[int], letters: list[str], object_number: int, width: int) -> Image.Image:
    columns = columns_of(choice, shown)
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=13)
    first, top = 170, 48  # letter, marker, stride and who takes it; two lines of heads
    step = min(100, max(50, (width - first) // max(1, len(columns))))
    bottom = top + _ROW * len(shown)
    sheet = Image.new("RGB", (width, bottom + 30), WHITE)
    draw = ImageDraw.Draw(sheet)
    levels, strides = choice.level.tolist(), choice.priors.strides.tolist()
    fills, color, group = weight_fills(choice), class_color(object_number), ""
    for k, column in enumerate(columns):
        x = first + k * step
        if column.group != group:
            group = column.group
            draw.text((x, 2), group, fill=INK, font=font)
            draw.line((x - 7, 4, x - 7, bottom), fill=_FAINT, width=2)
        draw.text((x, 25), column.head, fill=INK, font=small)
        most = max((abs(v) for v in column.values if math.isfinite(v)), default=0.0) or 1.0
        for row, value in enumerate(column.values):
            y = top + row * _ROW
            if math.isfinite(value):
                draw.rectangle((x, y + 4, x + round((step - 14) * abs(value) / most), y + _ROW - 4), fill=_BAR)
            draw.text((x + 3, y + 8), number(value), fill=INK, font=small)
    for row, (m, letter) in enumerate(zip(shown, letters, strict=True)):
        y, stride = top + row * _ROW, strides[int(choice.match.prior[m])]
        center = (20.0, y + _ROW / 2)
        draw_marker(draw, center, levels[m], min(_size(levels[m]), 13.0), fills[m], color)
        _centered(draw, letter, center, fills[m], ImageFont.load_default(size=12))
        draw.text((44, y + 8), f"stride {stride:g}{', extra' if bool(choice.extra[m]) else ''}", fill=INK, font=small)
    note = "A bar is relative to the longest of its column."
    if choice.factors:
        note += " weight: the product of the factors that the loss multiplies the pair's term with."
    draw.text((4, bottom + 8), note, fill=SOFT, font=small)
    return sheet


def _centered(draw: ImageDraw.ImageDraw, text: str, center: tuple[float, float], ground: Color, font: Font) -> None:
    """A text in black or white on its ground, its middle at `center`."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    bright = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2] > 140
    place = (center[0] - (left + right) / 2, center[1] - (top + bottom) / 2)
    draw.text(place, text, fill=INK if bright else WHITE, font=font)
