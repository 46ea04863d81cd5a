"""Which stored numbers or colors of a label map mean which class, and which do not count.

Letters: C classes, K colors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bifocals.structures import IGNORED

from .defects import DataError, one_line
from .label_maps import Color

_LARGEST = 1024 * 1024  # bytes of a class list
_COLORED = re.compile(r"(.*\S)\s+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})")
_KEYS = {"classes", "ignore", "labels"}
_CLASS_KEYS = {"name", "value", "values", "color"}


@dataclass(frozen=True)
class ClassList:
    """The classes of a set in their order.

    values: the stored numbers of each class. ignored: stored numbers that do not count. colors: of each class, None
    where there are none. ignored_colors: colors that do not count. labels: what pixels hold; auto: as most label maps
    of the set have it. source: where the list stands, for messages.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    ignored: tuple[int, ...] = (IGNORED,)
    colors: tuple[Color, ...] | None = None
    ignored_colors: tuple[Color, ...] = ()
    labels: Literal["auto", "numbers", "colors"] = "auto"
    source: str = "the class list"

    @staticmethod
    def numbered(
        names: Sequence[str],
        ignored: Sequence[int] = (IGNORED,),
        colors: Sequence[Color] | None = None,
        *,
        labels: Literal["auto", "numbers", "colors"] = "auto",
        ignored_colors: Sequence[Color] = (),
        source: str = "the class list",
    ) -> ClassList:
        """Classes stored as 0, 1, 2 ... in the order of their names."""
        values = tuple((value,) for value in range(len(names)))
        listed = None if colors is None else tuple(colors)
        return ClassList(tuple(names), values, tuple(ignored), listed, tuple(ignored_colors), labels, source)

    def __post_init__(self) -> None:
        if not 0 < len(self.names) < IGNORED:
            raise DataError(f"{self.source}: expected 1 to {IGNORED - 1} classes, got {len(self.names)}.")
        stored = [value for values in self.values for value in values]
        colors = [*(self.colors or ()), *self.ignored_colors]
        for what, entries in (("class name", self.names), ("number", [*stored, *self.ignored]), ("color", colors)):
            twice = [entry for i, entry in enumerate(entries) if entry in entries[:i]]
            if twice:
                raise DataError(f"{self.source}: expected each {what} once, got {one_line(repr(twice[0]))} again.")
        wrong = [value for value in (*stored, *self.ignored) if not 0 <= value <= 255]
        wrong += [part for color in colors for part in color if not 0 <= part <= 255]
        if wrong:
            raise DataError(f"{self.source}: expected numbers from 0 to 255, got {wrong[0]}.")
        if self.labels == "colors" and self.colors is None:
            raise DataError(f"{self.source}: expected a color for each class, as labels are colors, got none.")

    def expected(self) -> str:
        """The stored numbers in words: `0 to 10, or 11 for what does not count`."""
        text = ", ".join(_runs(sorted(value for values in self.values for value in values)))
        ignored = ", ".join(_runs(sorted(self.ignored)))
        return f"{text}, or {ignored} for what does not count" if ignored else text


@dataclass(frozen=True, eq=False)
class LabelTable:
    """How to read the labels of a set as the classes wanted.

    mapping: [256] class of each stored number, 255 for all others. known: [256] which stored numbers may occur.
    missing: stored numbers of classes that are not wanted, with their names. colors: [K 3], K = 0 where pixels hold
    numbers; else a pixel's stored number is the place of its color.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mapping: NDArray[np.uint8]
    known: NDArray[np.bool_]
    palette: tuple[Color, ...] | None
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), dtype=np.uint8))
    missing: Mapping[int, str] = field(default_factory=dict)


def label_table(listed: ClassList, wanted: Sequence[str] | None, colored: bool) -> LabelTable:
    """The table of a set for the classes `wanted`, in their order, by name; all of the list where None.

    A class of the list that is not wanted must not occur; a class wanted that the list lacks never does, and has the
    number -1. colored: pixels hold colors.
    """
    names = listed.names if wanted is None else tuple(wanted)
    mapping, known = np.full(256, IGNORED, dtype=np.uint8), np.zeros(256, dtype=bool)
    values = tuple((place,) for place in range(len(listed.names))) if colored else listed.values
    missing, category_ids = {}, [-1] * len(names)
    for name, stored in zip(listed.names, values, strict=True):
        if name not in names:
            missing.update(dict.fromkeys(stored, name))
            continue
        label = names.index(name)
        mapping[list(stored)], known[list(stored)] = label, True
        category_ids[label] = stored[0]
    colors = np.zeros((0, 3), dtype=np.uint8)
    if colored:
        assert listed.colors is not None
        colors = np.array([*listed.colors, *listed.ignored_colors], dtype=np.uint8)
        known[len(listed.names) : len(colors)] = True
    else:
        known[list(listed.ignored)] = True
    palette = None
    if listed.colors is not None and set(names) <= set(listed.names):
        palette = tuple(listed.colors[listed.names.index(name)] for name in names)
    return LabelTable(names, tuple(category_ids), mapping, known, palette, colors, missing)


def find_class_list(root: Path) -> Path | None:
    """classes.json or classes.txt of a folder, or of its labels."""
    names = ("classes.json", "classes.txt", "labels/classes.json", "labels/classes.txt")
    return next((root / name for name in names if (root / name).is_file()), None)


def read_class_list(path: Path, source: str) -> ClassList:
    """Reads classes.json or classes.txt, of which the guide on segmentation data tells the form. Raises `DataError`."""
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"{source}: expected at most {_LARGEST} bytes, got {size}.")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: expected a class list in UTF-8, got {one_line(str(error))}.") from None
    return _read_json(text, source) if path.suffix == ".json" else _read_lines(text, source)


def _read_lines(text: str, source: str) -> ClassList:
    """A class a line, 0 first; three numbers behind the name are its color."""
    names: list[str] = []
    colors: list[Color] = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        colored = _COLORED.fullmatch(line.strip())
        name = colored[1].rstrip(",").rstrip() if colored else line.strip()
        if not name:
            raise DataError(f"{source}: line {number}: expected the name of class {number - 1}, got an empty line.")
        names.append(name)
        if colored:
            colors.append((int(colored[2]), int(colored[3]), int(colored[4])))
    if colors and len(colors) != len(names):
        raise DataError(f"{source}: expected a color for each of {len(names)} classes or none, got {len(colors)}.")
    return ClassList.numbered(names, colors=colors or None, source=source)


def _read_json(text: str, source: str) -> ClassList:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: expected JSON, got {one_line(str(error))}.") from None
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise DataError(f"{source}: expected a list of classes or an object with classes, got {_kind(content)}.")
    _require_keys(content, _KEYS, source)
    names: list[str] = []
    values: list[tuple[int, ...]] = []
    colors: list[Color] = []
    for place, entry in enumerate(content["classes"]):
        where = f"{source}: class {place}"
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
            raise DataError(f"{where}: expected a name or an object with name, got {one_line(repr(entry), 80)}.")
        _require_keys(entry, _CLASS_KEYS, where)
        names.append(entry["name"].strip())
        stored = entry.get("values", [entry.get("value", place)])
        if not isinstance(stored, list) or not stored or not all(_is_number(value) for value in stored):
            raise DataError(f"{where}: expected value to be a whole number, got {one_line(repr(stored), 80)}.")
        values.append(tuple(stored))
        if "color" in entry:
            colors.append(_color(entry["color"], where))
    if colors and len(colors) != len(names):
        raise DataError(f"{source}: expected a color for each of {len(names)} classes or none, got {len(colors)}.")
    labels = content.get("labels", "auto")
    if labels not in ("auto", "numbers", "colors"):
        raise DataError(f"{source}: expected labels to be numbers or colors, got {one_line(repr(labels), 80)}.")
    taken = {value for stored in values for value in stored}
    ignore = content.get("ignore", [] if IGNORED in taken else [IGNORED])
    ignore = ignore if isinstance(ignore, list) else [ignore]  # three numbers are three numbers, a color is a list
    ignored = tuple(entry for entry in ignore if _is_number(entry))
    ignored_colors = tuple(_color(entry, f"{source}: ignore") for entry in ignore if not _is_number(entry))
    if ignored_colors and not ignored and IGNORED not in taken:
        ignored = (IGNORED,)
    return ClassList(tuple(names), tuple(values), ignored, tuple(colors) or None, ignored_colors, labels, source)


def _color(entry: Any, where: str) -> Color:
    if isinstance(entry, list) and len(entry) == 3 and all(_is_number(part) for part in entry):
        return entry[0], entry[1], entry[2]
    raise DataError(f"{where}: expected a color [red, green, blue], got {one_line(repr(entry), 80)}.")


def _is_number(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)


def _require_keys(content: Mapping[str, Any], known: set[str], where: str) -> None:
    others = sorted(set(content) - known)
    if others:
        raise DataError(f"{where}: expected the keys {', '.join(sorted(known))}, got {one_line(repr(others[0]), 80)}.")


def _kind(content: Any) -> str:
    return f"an object with {', '.join(sorted(content)[:8]) or 'nothing'}" if isinstance(content, dict) else (
        f"a {type(content).__name__}")  # fmt: skip


def _runs(values: Sequence[int]) -> list[str]:
    """Numbers with those in a row put together."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
