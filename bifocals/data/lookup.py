"""An image of a set by what a user calls it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path, PurePosixPath

from .annotations import Annotations


def find_image(annotations: Annotations, name: str | Path, where: str = "the set", hint: str = "") -> int:
    """The number of the image that `name` means: its path, its name in the annotations, or its file name, with or
    without the ending.

    ValueError, which names the closest file names, where there is none, and the possible ones where there are several.
    where: what the set is called in the message. hint: what else to try, after a semicolon.
    """
    wanted, files = str(name), annotations.files
    if os.path.exists(wanted):
        # By place first: two folders of a set may hold files of one name.
        place, last = os.path.realpath(wanted), Path(wanted).name
        for i, file in enumerate(files):
            if PurePosixPath(file).name == last and os.path.realpath(annotations.image_path(i)) == place:
                return i
    text = wanted.replace(os.sep, "/")
    keys = (
        lambda file: file == text,
        lambda file: PurePosixPath(file).name == PurePosixPath(text).name,
        lambda file: PurePosixPath(file).stem == PurePosixPath(text).name,
    )
    for fits in keys:
        found = [i for i, file in enumerate(files) if fits(file)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(files[i] for i in found[:5])
            raise ValueError(f"find_image expected a name of one image of {where}, got {wanted!r}, which means "
                             f"{len(found)}: {names}{' ...' if len(found) > 5 else ''}.")
    base = {PurePosixPath(file).name: file for file in files}
    near = [base[b] for b in difflib.get_close_matches(PurePosixPath(text).name, base, n=3, cutoff=0.0)]
    known = f"near are {', '.join(near)}" if near else "it has none"
    if hint:
        known += f"; {hint}"
    raise ValueError(f"find_image expected an image of {where} ({len(files)} images), got {wanted!r}; {known}.")
