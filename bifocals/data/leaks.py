"""Pictures that two splits share: what is learned by heart would be counted as known."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .defects import Defect
from .file_names import relative_name


class _Pictures(Protocol):
    """`Annotations` or `LabelMaps`."""

    @property
    def files(self) -> Sequence[str]: ...

    def image_path(self, index: int) -> Path: ...


def find_leaks(splits: Mapping[str, _Pictures], root: Path) -> list[Defect]:
    """One line for each picture of a split whose file is, byte for byte, also one of a split before it.

    A picture that was compressed again is another file, and is not found. Files that cannot be read are passed over;
    only files of equal size are read. root: messages name files as seen from it.
    """
    sizes: dict[int, set[str]] = {}
    for split, pictures in splits.items():
        for _, size in _sizes(pictures):
            sizes.setdefault(size, set()).add(split)
    first: dict[bytes, tuple[str, Path]] = {}
    leaks = []
    for split, pictures in splits.items():
        for path, size in _sizes(pictures):
            if len(sizes[size]) == 1:
                continue
            try:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:
                continue
            other, twin = first.setdefault(digest, (split, path))
            if other != split:
                what = "expected a picture that is in no other split"
                leaks.append(Defect(relative_name(path, root), f"split {split}", what,
                                    f"{relative_name(twin, root)} of split {other}"))
    return leaks


def _sizes(pictures: _Pictures) -> Iterator[tuple[Path, int]]:
    """The file of each picture and its size in bytes."""
    for index in range(len(pictures.files)):
        path = pictures.image_path(index)
        try:
            facts = os.stat(path)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(facts.st_mode) and facts.st_size:
            yield path, facts.st_size
