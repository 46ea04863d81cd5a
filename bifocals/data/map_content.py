"""What one label map holds, judged against the class list: numbers, colors, and what to do where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bifocals.structures import IGNORED

from .class_list import ClassList, LabelTable
from .defects import count
from .images import ImageProblem
from .label_png import LabelHead, color_codes, decode, palette_of, read_head, require_kind, stored_values
from .map_draft import MapDraft

_SHOWN = 5  # wrong numbers named in one line
_MANY = 20  # more wrong numbers than anybody mislabels
_COLORS = 1 << 16  # colors counted in one picture


@dataclass(frozen=True)
class MapFacts:
    """present: which classes occur, one bit each; 0 where all pixels do not count, -1 where nobody looked."""

    size_hw: tuple[int, int]
    present: int
    problems: tuple[ImageProblem, ...] = ()


def inspect_map(draft: MapDraft, path: Path | str, whole: bool) -> MapFacts:
    """Size and kind of a label map; `whole` also looks at every pixel.

    Raises `ImageProblem` where the file cannot be read as a label map of its set.
    """
    maps = draft.annotations
    head = read_head(path)
    try:
        require_kind(head, maps.label_kind == "rgb")
    except ImageProblem as problem:
        raise _explained(problem, head, path, draft) from None
    if not whole:
        return MapFacts(head.size_hw, -1)
    with decode(path, checksums=True) as image:
        if maps.label_kind == "rgb":
            return _judge_colors(image, head, draft)
        return _judge_numbers(image, head, draft)


def _judge_numbers(image: Image.Image, head: LabelHead, draft: MapDraft) -> MapFacts:
    listed, table = draft.listed, draft.table
    counts = _counts(image, head)
    problems = []
    wrong = np.flatnonzero((counts > 0) & ~table.known)
    contradiction = _contradiction(image, counts, listed, table.known) if head.kind == "palette" else None
    if contradiction is not None:
        problems.append(contradiction)
    elif len(wrong):
        foreign = [value for value in wrong if int(value) in table.missing]
        what = f"expected the numbers {listed.expected()}"
        if len(foreign) == len(wrong):
            what = f"expected one of the {len(table.classes)} classes of the training set"
        named = [f"{value}{_name(table, int(value))} ({count(int(counts[value]), 'pixel')})" for value in wrong]
        problems.append(ImageProblem(what + _advice(len(named), draft), _listed(named)))
    return MapFacts(head.size_hw, _present(table.mapping[np.flatnonzero(counts)]), tuple(problems))


def _judge_colors(image: Image.Image, head: LabelHead, draft: MapDraft) -> MapFacts:
    table = draft.table
    values = stored_values(image, head, table.colors)
    counts = np.bincount(values.ravel(), minlength=256)
    problems = []
    wrong = [int(value) for value in np.flatnonzero((counts > 0) & ~table.known)]
    if IGNORED in wrong and not table.known[IGNORED]:
        found = image.convert("RGB").getcolors(_COLORS)
        known = set(color_codes(table.colors).tolist())
        others = [(number, color) for number, color in found or () if _code(color) not in known]
        others.sort(key=lambda entry: (-entry[0], _code(entry[1])))
        named = [f"{color} ({count(number, 'pixel')})" for number, color in others]
        advice = _advice(len(named) if found is not None else _COLORS, draft)
        value = _listed(named) if found is not None else f"more than {_COLORS} colors"
        problems.append(ImageProblem(f"expected the colors of {draft.listed.source}{advice}", value))
    foreign = [value for value in wrong if value in table.missing]
    if foreign:
        named = [f"{tuple(table.colors[v].tolist())}{_name(table, v)}" for v in foreign]
        what = f"expected one of the {len(table.classes)} classes of the training set"
        problems.append(ImageProblem(what, _listed(named)))
    return MapFacts(head.size_hw, _present(table.mapping[np.flatnonzero(counts)]), tuple(problems))


def _contradiction(
    image: Image.Image, counts: NDArray[np.int64], listed: ClassList, known: NDArray[np.bool_]
) -> ImageProblem | None:
    """A palette PNG whose colors are those of the class list, but at other numbers.

    A palette of somebody's own choice says nothing: all numbers in use must show a class's color, no two the same, and
    more than one of them, or one that no class has, another class's than its own.
    """
    if listed.colors is None:
        return None
    palette = palette_of(image)
    used = [int(value) for value in np.flatnonzero(counts) if int(value) not in listed.ignored]
    name_of = {value: name for name, stored in zip(listed.names, listed.values, strict=True) for value in stored}
    color_of = dict(zip(listed.colors, listed.names, strict=True))
    shown = [color_of.get((int(r), int(g), int(b))) for r, g, b in palette[used]]
    others = [(value, name) for value, name in zip(used, shown, strict=True) if name_of.get(value) != name]
    if None in shown or len(set(shown)) < len(shown) or not others or len(others) + (not known[used].all()) < 2:
        return None
    value, name = others[0]
    means = repr(name_of[value]) if value in name_of else "no class"
    advice = 'where its colors are right, say "labels": "colors" in classes.json, else repair it'
    what = f"expected a palette with each class in its color ({advice})"
    return ImageProblem(what, f"number {value} ({means}) in that of {name!r}")


def _explained(problem: ImageProblem, head: LabelHead, path: Path | str, draft: MapDraft) -> ImageProblem:
    """The same problem with what to do about it, where the pixels tell."""
    listed = draft.listed
    if head.bits == 16 or head.kind == "gray and alpha":
        return problem
    if head.kind != "rgb":
        most = "most of the set has them" if listed.labels == "auto" else f"{listed.source} says"
        return ImageProblem(f"{problem.what}, as {most}", problem.value)
    with decode(path) as image:
        found = image.convert("RGB").getcolors(_COLORS)
    codes = None if found is None else np.array([_code(color) for _, color in found])
    number = f"more than {_COLORS}" if found is None else f"{len(found)}"
    if codes is not None and bool((codes % 0x10101 == 0).all()):  # red, green and blue are the same byte
        return ImageProblem(f"{problem.what} (save one channel alone, Pillow mode L)", "RGB with three equal channels")
    if listed.colors is None:
        advice = "(or give each class its color in classes.json)"
        return ImageProblem(f"{problem.what} {advice}", f"RGB of {number} colors")
    known = color_codes(np.array([*listed.colors, *listed.ignored_colors], dtype=np.uint8))
    if codes is not None and bool(np.isin(codes, known).all()):
        advice = '(or "labels": "colors" in classes.json)'
        return ImageProblem(f"{problem.what}, as most of the set has {advice}", f"RGB in the colors of {listed.source}")
    return ImageProblem(problem.what, f"RGB in colors that {listed.source} does not have")


def _counts(image: Image.Image, head: LabelHead) -> NDArray[np.int64]:
    """[256] pixels of each stored number."""
    if image.mode in ("L", "P") and (head.bits == 8 or head.kind == "palette"):
        return np.array(image.histogram()[:256], dtype=np.int64)
    none = np.zeros((0, 3), dtype=np.uint8)
    return np.bincount(stored_values(image, head, none).ravel(), minlength=256)


def _present(labels: NDArray[np.uint8]) -> int:
    bits = 0
    for label in labels[labels != IGNORED]:
        bits |= 1 << int(label)
    return bits


def _name(table: LabelTable, value: int) -> str:
    return f" {table.missing[value]!r}" if value in table.missing else ""


def _code(color: object) -> int:
    assert isinstance(color, tuple)
    return int(color[0]) << 16 | int(color[1]) << 8 | int(color[2])


def _listed(named: Sequence[str]) -> str:
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")


def _advice(number: int, draft: MapDraft) -> str:
    """In brackets, what so many wrong numbers come from."""
    text = "many others come from resizing or lossy saving" if number > _MANY else draft.advice
    return f" ({text})" if text else ""
