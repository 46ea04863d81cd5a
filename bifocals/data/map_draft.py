"""What a format's reader found of pictures and their label maps, before it is judged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .class_list import ClassList, LabelTable, label_table
from .defects import DataError, Defect, data_error
from .file_names import image_files, name_problem, relative_name
from .images import ImageProblem
from .label_maps import Color, LabelMaps
from .label_png import decode, palette_of, read_head
from .voc import listed_names

_SAMPLED = 20  # headers looked at to see what most label maps of a set hold


@dataclass(frozen=True, eq=False)
class MapDraft:
    """Pictures and label maps by name, what their numbers mean, and the defects met in reading.

    allowed: real paths of the folders that files may lie in. advice: what wrong numbers of this format often come from.
    """

    annotations: LabelMaps
    listed: ClassList
    table: LabelTable
    allowed: tuple[str, ...]
    defects: tuple[Defect, ...] = ()
    advice: str = ""

    def with_defects(self, defects: Sequence[Defect]) -> MapDraft:
        return replace(self, defects=(*self.defects, *defects))


@dataclass
class Pairs:
    """Pictures and their label maps, relative to the data set's folder, in the order of a split."""

    files: list[str] = field(default_factory=list)
    label_files: list[str] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    folders: tuple[str, ...] = ()
    """What the pairs lie in; a folder may itself be a link to elsewhere, a file may not."""

    def add(self, file: str, label_file: str) -> int:
        """Puts a pair at the end and says which one it is."""
        self.files.append(file)
        self.label_files.append(label_file)
        return len(self.files) - 1

    def defect(self, file: str, record: str, what: str, value: str, *images: int) -> None:
        self.defects.append(Defect(file, record, what, value, images))


def pair_folders(
    root: Path,
    pictures: str,
    labels: str,
    picture_end: str = "",
    label_end: str | None = None,
    *,
    labeled: bool = False,
) -> Pairs:
    """Pairs the pictures below one folder with the label PNGs of the same names below another.

    picture_end, label_end: what their names carry behind the common part; a label_end of None is found from the names.
    A label map without picture is a defect, and a picture without label map unless only those `labeled` are meant.
    """
    pairs = Pairs(folders=(pictures, labels))
    picture_of = _by_key(image_files(root / pictures), picture_end)
    files = image_files(root / labels)
    if label_end is None:
        label_end = _common_end(list(picture_of), [_key(file) for file in files if _is_png(file)])
    label_of = _by_key([file for file in files if _is_png(file)], label_end)
    others = _by_key([file for file in files if not _is_png(file)], label_end)
    for key, names in picture_of.items():
        if labeled and key not in label_of:
            continue
        file = f"{pictures}/{names[0]}"
        found = label_of.get(key, [f"{key}{label_end}.png"])
        index = pairs.add(file, f"{labels}/{found[0]}")
        if len(names) > 1:
            pairs.defect(file, "picture", f"expected one picture named {key}", " and ".join(names), index)
        elif len(found) > 1:
            pairs.defect(file, "picture", "expected one label map", " and ".join(found), index)
        elif key not in label_of:
            _missing_label(pairs, index, others.get(key))
    for key in label_of:
        if key not in picture_of:
            what = f"expected a picture named {key}{picture_end} in {pictures}"
            pairs.defect(f"{labels}/{label_of[key][0]}", "label map", what, "none")
    return pairs


def pair_list(root: Path, names_file: Path, pictures: str, labels: str) -> Pairs:
    """Pairs the pictures and label PNGs of the names in a list. Raises `DataError` where it cannot be read."""
    pairs = Pairs(folders=(pictures, labels))
    source = relative_name(names_file, root)
    picture_of = _by_key(image_files(root / pictures), "")
    for name, defect in listed_names(root, names_file, root):
        file = picture_of.get(name, [f"{name}.jpg"])[0]
        index = pairs.add(f"{pictures}/{file}", f"{labels}/{name}.png")
        if defect is not None:
            pairs.defects.append(replace(defect, images=(index,)))
        elif name not in picture_of:
            pairs.defect(source, f"name {name}", f"expected a picture of that name in {pictures}", "none", index)
        elif len(picture_of[name]) > 1:
            came = " and ".join(picture_of[name])
            pairs.defect(source, f"name {name}", f"expected one picture of that name in {pictures}", came, index)
        elif not os.path.lexists(root / pairs.label_files[index]):
            _missing_label(pairs, index, None)
    return pairs


def draft_maps(
    root: Path, pairs: Pairs, listed: ClassList, wanted: Sequence[str] | None, subject: str, advice: str = ""
) -> MapDraft:
    """A draft of the pairs. What the label maps hold is taken from most of a sample, or from the class list.

    subject: what the pairs are called where there are none. Raises `DataError` where no picture has a label map.
    """
    if not pairs.files:
        raise DataError(f"{subject}: expected pictures with label maps, got none.")
    concerned = {image for defect in pairs.defects for image in defect.images}
    if len(concerned) == len(pairs.files) and not any(os.path.lexists(root / name) for name in pairs.label_files):
        what = "expected a label map as PNG for some of the pictures"
        value = f"none for {len(pairs.files)}, the first would be {pairs.label_files[0]}"
        raise data_error(str(root), [Defect(subject, "folder", what, value, fatal=True)])
    kinds, colors = _sample(root, pairs)
    colored = listed.labels == "colors" or (
        listed.labels == "auto" and listed.colors is not None and kinds.most_common(1)[:1] == [("rgb", kinds["rgb"])]
    )
    table = label_table(listed, wanted, colored)
    palette, kind = table.palette, kinds.most_common(1)[0][0] if kinds else "index"
    shown: Literal["index", "palette", "rgb"] = "rgb" if colored else "palette" if kind == "palette" else "index"
    if palette is None and shown == "palette" and min(table.category_ids) >= 0 and colors is not None:
        palette = tuple(colors[value] for value in table.category_ids)
    maps = LabelMaps(
        root=root,
        files=pairs.files,
        label_files=pairs.label_files,
        image_ids=np.arange(len(pairs.files), dtype=np.int64),
        sizes_hw=np.zeros((len(pairs.files), 2), dtype=np.int32),
        classes=table.classes,
        category_ids=table.category_ids,
        mapping=table.mapping,
        label_kind=shown,
        palette=palette,
        colors=table.colors,
    )
    allowed = tuple(os.path.realpath(root / folder) for folder in ("", *pairs.folders))
    return MapDraft(maps, listed, table, allowed, tuple(pairs.defects), advice)


def _sample(root: Path, pairs: Pairs) -> tuple[Counter[str], list[Color] | None]:
    """The kinds of some label maps, and the palette of the first that has one."""
    kinds: Counter[str] = Counter()
    colors = None
    for name in pairs.label_files[:: max(1, len(pairs.label_files) // _SAMPLED)]:
        if name_problem(name) is not None:
            continue
        try:
            kind = read_head(root / name).kind
            kinds[kind] += 1
            if kind == "palette" and colors is None:
                with decode(root / name) as image:
                    colors = [(int(r), int(g), int(b)) for r, g, b in palette_of(image)]
        except ImageProblem:
            continue  # the check of the whole set says so
    return kinds, colors


def _missing_label(pairs: Pairs, index: int, others: Sequence[str] | None) -> None:
    came = f"{others[0]}, but only PNG keeps label values as they are" if others else "no such file"
    pairs.defect(pairs.files[index], "picture", f"expected its label map {pairs.label_files[index]}", came, index)


def _by_key(files: Sequence[str], end: str) -> dict[str, list[str]]:
    """File names by what they have without their ending; those with another ending are not meant."""
    found: dict[str, list[str]] = {}
    for file in files:
        key = _key(file)
        if key.endswith(end):
            found.setdefault(key[: len(key) - len(end)], []).append(file)
    return found


def _common_end(pictures: Sequence[str], labels: Sequence[str]) -> str:
    """What all label names carry behind a picture's name, such as _L; nothing where some are the same."""
    if not labels or not pictures or set(pictures) & set(labels):
        return ""
    ends = Counter(labels[0][len(key) :] for key in pictures if labels[0].startswith(key))
    known = set(pictures)
    for end in ends:
        if all(label.endswith(end) and label[: len(label) - len(end)] in known for label in labels):
            return end
    return ""


def _key(file: str) -> str:
    return os.path.splitext(file)[0]


def _is_png(file: str) -> bool:
    return file.lower().endswith(".png")
