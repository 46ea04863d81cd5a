"""Defects of a data set: one line each, naming file, record and value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN = 100  # lines in the message of an error; `DataError.defects` always holds all of them


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with a data set; `str()` is one line.

    file: where it stands, relative to the data set where it lies in it. record: which entry of the file.
    what: what was expected. value: what stands there instead.
    images: the images (indices into the `Annotations` of the same reading) that cannot be trusted because of it.
    fatal: the file as a whole cannot be read, so that leaving images out does not help.
    """

    file: str
    record: str
    what: str
    value: str
    images: tuple[int, ...] = ()
    fatal: bool = False

    def __str__(self) -> str:
        return f"{one_line(self.file)}: {one_line(self.record)}: {self.what}, got {one_line(self.value, 120)}"


class DataError(ValueError):
    """A data set that cannot be used as it is. `defects` lists all that was found."""

    def __init__(self, message: str, defects: Sequence[Defect] = ()) -> None:
        # The message alone must be enough to build it: torch's DataLoader rebuilds a worker's exception from its text.
        super().__init__(message)
        self.defects = tuple(defects)


def data_error(subject: str, defects: Sequence[Defect], advice: str = "") -> DataError:
    """An error whose message lists the defects line by line, at most a hundred of them."""
    lines = [f"{subject} has {count(len(defects), 'defect')}.{' ' + advice if advice else ''}"]
    lines += [f"  {defect}" for defect in defects[:_SHOWN]]
    if len(defects) > _SHOWN:
        lines.append(f"  ... and {len(defects) - _SHOWN} more")
    return DataError("\n".join(lines), defects)


def count(number: int, noun: str) -> str:
    """A number and its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(text: str, limit: int = 300) -> str:
    """Text that may come from a hostile file, printable on one line and not longer than `limit` characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"
