"""File names out of annotation files are not trusted: they must stay inside the data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


def name_problem(name: str) -> str | None:
    """What a relative file name was expected to be, where `name` is none; judged by its letters alone."""
    if not name or "\0" in name:
        return "expected a file name"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "expected a file name"
    if _ABSOLUTE.match(name):
        return "expected a file name relative to the images folder"
    # A Windows separator counts everywhere, so that a data set is judged alike on every system.
    if ".." in re.split(r"[/\\]", name):
        return "expected a file name that stays in the images folder"
    return None


def stays_inside(path: Path | str, folders: Iterable[str]) -> bool:
    """Whether `path`, all symbolic links followed, lies in one of `folders` (real paths)."""
    real = os.path.realpath(path)
    return any(real == folder or real.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def relative_name(path: Path | str, root: Path | str) -> str:
    """`path` as seen from `root` where it lies below it, else as it is; for messages."""
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return str(path)


def image_files(folder: Path) -> list[str]:
    """Names of all pictures below `folder`, relative to it, sorted; hidden files and folders do not count."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = os.path.relpath(parent, folder)
        for file in files:
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not file.startswith("."):
                found.append(file if inner == os.curdir else f"{inner}{os.sep}{file}")
    return sorted(name.replace(os.sep, "/") for name in found)
