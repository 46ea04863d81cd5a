"""A folder of images and label PNGs with a class list: images/ and labels/, or train/images/ and train/labels/."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from bifocals.structures import IGNORED

from .checking_maps import check_maps
from .class_list import ClassList, find_class_list, read_class_list
from .defects import DataError
from .draft import Log, apply_policy
from .file_names import relative_name
from .finding import split_of
from .label_maps import LabelMaps
from .map_draft import MapDraft, draft_maps, pair_folders

PICTURES, LABELS = ("images", "Images", "JPEGImages"), ("labels", "masks", "annotations")


def load_label_folder(
    root: Path | str,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> LabelMaps:
    """Reads images/SPLIT with labels/SPLIT or SPLIT/images with SPLIT/labels, without a split images with labels.

    classes: names in their order, where None those of classes.json or classes.txt. All is checked. Raises `DataError`.
    """
    root = Path(root)
    subject = f"{root}" if split is None else f"{root}, split {split}"
    folders = label_folders(root)
    if (split or "") not in folders:
        known = ", ".join(name for name in folders if name) or "no split"
        raise DataError(f"{root}: expected pictures and label PNGs of {split or 'one split'}, got {known}.")
    draft = read_label_folder(root, folders[split or ""], folder_classes(root, classes or ()), classes=classes)
    return apply_policy(check_maps(draft, log=log), on_defect, subject, log)


def label_folders(root: Path) -> dict[str, tuple[str, str]]:
    """Folders of pictures and of labels of each split, relative to `root`; "" is the one of a set without splits."""
    pictures, labels = _first(root, PICTURES), _first(root, LABELS)
    if pictures is not None and labels is not None:
        inner = [path.name for path in sorted((root / pictures).iterdir()) if (root / labels / path.name).is_dir()]
        if any(split_of(name) is not None for name in inner):  # else they are cities or days
            return {name: (f"{pictures}/{name}", f"{labels}/{name}") for name in inner}
        return {"": (pictures, labels)}
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            inner_pictures, inner_labels = _first(path, PICTURES), _first(path, LABELS)
            if inner_pictures is not None and inner_labels is not None:
                found[path.name] = (f"{path.name}/{inner_pictures}", f"{path.name}/{inner_labels}")
    return found


def folder_classes(root: Path, names: Sequence[str] = ()) -> ClassList:
    """The folder's class list, else classes with the names given, stored as 0, 1 ... Raises `DataError`."""
    path = find_class_list(root)
    if path is not None:
        return read_class_list(path, relative_name(path, root))
    if not names:
        raise DataError(f"{root}: expected a class list, classes.txt with a name a line, 0 first, or classes.json, got "
                        "neither; or name the classes with --data.classes.")  # fmt: skip
    return ClassList.numbered(names, source="the classes given")


def read_label_folder(
    root: Path, folders: tuple[str, str], listed: ClassList, *, classes: Sequence[str] | None = None
) -> MapDraft:
    """Pairs the pictures and label maps of two folders into a draft."""
    return draft_maps(root, pair_folders(root, *folders), listed, classes, folders[1])


def save_label_folder(maps: LabelMaps, root: Path | str, split: str = "train", copy_images: bool = True) -> Path:
    """Writes images/SPLIT, labels/SPLIT as PNG with the class of each pixel and 255, and classes.json.

    The labels have a palette where the set has one. Raises ValueError where two pictures would get the same name.
    """
    root = Path(root)
    pictures, labels = root / "images" / split, root / "labels" / split
    for folder in (pictures, labels):
        folder.mkdir(parents=True, exist_ok=True)
    stems: dict[str, str] = {}
    for index in range(len(maps)):
        file = Path(maps.files[index])
        if file.stem in stems:
            raise ValueError(f"save_label_folder expected a name of its own for each image, got {file} and "
                             f"{stems[file.stem]}.")  # fmt: skip
        stems[file.stem] = str(file)
        image = Image.fromarray(maps.labels(index))
        if maps.palette is not None:
            # All 256 colors: with fewer Pillow saves fewer bits, and 255 would be lost.
            image.putpalette([part for color in maps.palette for part in color] + [0, 0, 0] * (256 - len(maps.palette)))
        image.save(labels / f"{file.stem}.png")
        if copy_images:
            shutil.copyfile(maps.image_path(index), pictures / file.name)
    write_class_list(root / "classes.json", maps.classes, maps.palette)
    return root


def write_class_list(path: Path, names: Sequence[str], palette: Sequence[tuple[int, int, int]] | None) -> None:
    """Writes a classes.json of classes stored as 0, 1 ... with 255 for what does not count."""
    entries: list[dict[str, Any]] = [{"name": name, "value": value} for value, name in enumerate(names)]
    for entry, color in zip(entries, palette or (), strict=False):
        entry["color"] = list(color)
    lines = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
    text = f'{{"classes": [\n{lines}\n], "ignore": [{IGNORED}], "labels": "numbers"}}\n'
    path.write_text(text, encoding="utf-8")


def _first(root: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (root / name).is_dir()), None)
