"""Which priors each assigner takes and how much the losses let them count, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from bifocals.evaluate import Choice, ImageAssignment
from bifocals.predict import class_color

from .closeup import closeup, focus_of
from .color_scale import Color, ColorScale, mix, number
from .markers import dashed_rectangle, draw_marker, draw_ring, radius_of
from .page import INK, SOFT, WHITE, Page, tile
from .panel import Panel, View, weight_fills

_MARGIN = 24  # pixels of the image that are shown around the objects
_LISTED = 12  # objects without any prior that a caption names

EXPLAINED = {
    "beta": "by gradient density: rare gradients count more",
    "omega": "IoU of the predicted box",
    "RCI_cls": "how far the score lies below the IoU",
    "CF_reg": "by overlap and offset of the box",
    "RCI_reg": "above 1: score too high for the box",
    "r": "RCI_reg by its running mean",
    "u": "the host's own weight: centerness or IoU",
    "focal": "alpha (1 - p)^gamma",
    "y": "IoU of the predicted box",
}
"""What a factor says, for captions."""


def assignment_picture(
    look: ImageAssignment,
    classes: Sequence[str],
    *,
    heading: Sequence[str] = (),
    panel: int | None = None,
    focus: int | None = None,
) -> Image.Image:
    """A panel for each assigner, panels of the weights of the first branch that has any, and one object close.

    A prior is a marker: shape and size are its level, the color is its object's, the paler the less it counts; priors
    that EATSS adds have a ring, objects without any prior a dashed box. In the second part the fill is a factor of the
    loss, with a bar beside. heading: lines for the top. panel: pixels of a panel's longer side; by default such that
    the points of the finest level stand apart. focus: number of the object shown close; by default the one of the most
    extras. ValueError for a number that no object has.
    """
    (height, width), num_objects = look.target.size_hw, len(look.target.labels)
    if focus is not None and not 0 <= focus < num_objects:
        raise ValueError(f"assignment_picture expected an object of 0 to {num_objects - 1}, got {focus}.")
    window = window_of(look)
    x1, y1, x2, y2 = window
    longer = max(x2 - x1, y2 - y1)
    side = panel or min(max(round(1.2 * longer), 620), 940)
    view = View(window, side / longer)
    finest = _marker(look, view.scale)
    page = Page(view.size[0])
    for line in heading:
        page.text(line, 17)
    for line in look.left_out:
        page.text(f"not shown: {line}", 14, SOFT)

    if window != (0, 0, width, height):
        page.text(f"shown: the part around the objects, x {x1:g} to {x2:g} and y {y1:g} to {y2:g} of what the network "
                  "sees", 14, SOFT)

    page.section("Which priors each assigner takes")
    page.paste(_legend(look, finest, page.width))
    tiles = []
    for choice in look.choices:
        drawn = Panel(look, view)
        drawn.objects(without=choice.without(num_objects))
        drawn.pairs(choice, weight_fills(choice), outlined=True, finest=finest)
        tiles.append(tile(drawn.done(), choice.title, counted(choice, num_objects, window)))
    page.grid(tiles)

    for choice in [c for c in look.choices if c.own and c.factors]:
        page.section(f"How much the losses let the priors of {choice.title} count")
        tiles, same = _weights(look, choice, view, finest)
        page.grid(tiles)
        if same:
            page.text(f"The same for all: {', '.join(same)}.", 14, SOFT)
    shown = _close(look.choices)
    chosen = focus_of(shown[-1], num_objects) if focus is None and shown else focus
    for choice in shown if chosen is not None else []:
        assert chosen is not None
        name, extras = classes[int(look.target.labels[chosen])], ", and extras" if bool(choice.extra.any()) else ""
        page.section(f"Object {chosen} ({name}) close, by {choice.title}: the priors that count most{extras}")
        page.paste(closeup(look, choice, chosen, page.width))
    return page.done()


def window_of(look: ImageAssignment) -> tuple[float, float, float, float]:
    """The part of the image that holds all objects, where that is much smaller than the image."""
    (height, width), boxes = look.target.size_hw, look.target.boxes
    whole = (0.0, 0.0, float(width), float(height))
    if not len(boxes):
        return whole
    (x1, y1), (x2, y2) = boxes[:, :2].amin(dim=0).tolist(), boxes[:, 2:].amax(dim=0).tolist()
    x1, y1 = max(0, math.floor(x1 - _MARGIN)), max(0, math.floor(y1 - _MARGIN))
    x2, y2 = min(width, math.ceil(x2 + _MARGIN)), min(height, math.ceil(y2 + _MARGIN))
    return (x1, y1, x2, y2) if (x2 - x1) * (y2 - y1) < 0.7 * width * height else whole


def _close(choices: Sequence[Choice]) -> list[Choice]:
    """Whose view of one object is shown: of the first branch whose losses tell, and of EATSS where that is a rival."""
    telling = [c for c in choices if c.factors and len(c)]
    own = next((c for c in telling if c.own), None)
    first = own or next((c for c in choices if len(c)), None)
    extras = next((c for c in telling if bool(c.extra.any())), None)
    found = [c for c in (first, extras) if c is not None]
    return found[:1] if found[:1] == found[1:] else found


def _marker(look: ImageAssignment, scale: float) -> float:
    """Radius of a marker of the finest level: neighbors must not touch."""
    strides = [float(c.priors.strides.min()) for c in look.choices if len(c.priors)]
    return min(max(0.3 * min(strides, default=8.0) * scale, 2.0), 4.5)


def _weights(
    look: ImageAssignment, choice: Choice, view: View, finest: float
) -> tuple[list[Image.Image], list[str]]:
    """A panel for each factor of each loss, and a few words for those that are the same number everywhere."""
    tiles, same = [], []
    for loss, found in choice.factors.items():
        for name, values in found.factors.items():
            numbers = values.tolist()
            scale = ColorScale.of(numbers)
            if scale.even:
                same.append(f"{loss} {name} {number(scale.high)}")
                continue
            drawn = Panel(look, view)
            drawn.objects(numbers=False)
            drawn.pairs(choice, [scale.color(v) for v in numbers], outlined=False, finest=finest, order=numbers)
            tiles.append(tile(drawn.done(), f"{loss}: {name}", EXPLAINED.get(name, ""), scale))
    return tiles, same


def counted(choice: Choice, num_objects: int, window: tuple[float, float, float, float]) -> str:
    levels = [(float(choice.priors.strides[start]), count)
              for start, count in zip(choice.priors.level_starts, choice.per_level(), strict=True)]
    text = f"{len(choice)} pairs"
    if extras := int(choice.extra.sum()):
        text += f", {extras} of them extras"
    text += "; by stride " + ", ".join(f"{stride:g}: {count}" for stride, count in levels if count)
    if not len(choice):
        text = "no pairs"
    if missing := choice.without(num_objects):
        named = ", ".join(map(str, missing[:_LISTED]))
        text += f"; none for object {named}{' ...' if len(missing) > _LISTED else ''}"
    points = choice.priors.points[choice.match.prior]
    inside = (points >= points.new_tensor(window[:2])) & (points <= points.new_tensor(window[2:]))
    if hidden := len(choice) - int(inside.all(dim=1).sum()):
        text += f"; {hidden} outside the part shown"
    if not choice.own and choice.prior_words != "the network's own":
        text += f" ({choice.prior_words})"
    return text


def _legend(look: ImageAssignment, finest: float, width: int) -> Image.Image:
    """What shapes, fills, rings and dashes mean."""
    font = ImageFont.load_default(size=14)
    fine = 3
    sheet = Image.new("RGB", (width * fine, 34 * fine), WHITE)
    draw, words = ImageDraw.Draw(sheet), []
    x, middle, color = 8.0, 17.0 * fine, class_color(2)

    def say(text: str) -> None:
        nonlocal x
        words.append((x, text))
        x += font.getlength(text) + 22

    def mark(level: int, fill: Color, ring: bool = False) -> None:
        nonlocal x
        radius = radius_of(level, finest)
        center = ((x + radius + 4) * fine, middle)
        if ring:
            draw_ring(draw, center, radius * fine, 1.3 * fine)
        draw_marker(draw, center, level, radius * fine, fill, color, fine)
        x += 2 * radius + 12

    strides: list[float] = []
    for choice in look.choices:
        strides = [float(choice.priors.strides[start]) for start in choice.priors.level_starts]
        break
    for level, stride in enumerate(strides):
        mark(level, color)
        say(f"stride {stride:g}")
    if any(choice.factors for choice in look.choices):
        for share in (0.0, 0.5, 1.0):
            mark(0, mix(WHITE, color, share))
        say("paler: counts less in the class loss")
    if any(bool(choice.extra.any()) for choice in look.choices):
        mark(0, color, ring=True)
        say("extra of EATSS")
    dashed_rectangle(draw, (x * fine, 9 * fine, (x + 22) * fine, 25 * fine), color, 2 * fine, 4 * fine)
    x += 28
    say("object without any prior")
    sheet = sheet.resize((width, 34), Image.Resampling.BOX)
    draw = ImageDraw.Draw(sheet)
    for start, text in words:
        draw.text((start, 9), text, fill=INK, font=font)
    return sheet
