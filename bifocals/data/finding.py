"""Finds out how a folder is laid out: the format and its splits, with the evidence in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .file_names import relative_name
from .voc import images_folder
from .yolo import YoloFile, read_yaml

Format = Literal["coco", "crowdhuman", "voc", "yolo"]
MapFormat = Literal["cityscapes", "camvid", "voc-maps", "cocostuff", "label-folder"]
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "minival"),
    "test": ("test", "testing"),
}
EXPECTED = {
    "coco": "annotations/*.json or */_annotations.coco.json",
    "crowdhuman": "annotation_*.odgt",
    "voc": "Annotations/*.xml",
    "yolo": "data.yaml, or images/ and labels/ with classes.txt",
}
_OTHER_TASKS = {"captions", "keypoints", "stuff", "panoptic", "info", "unlabeled", "lvis", "results"}


@dataclass(frozen=True)
class Layout:
    """What was found. splits: each name on disk and the file or folder that says what belongs to it."""

    format: Format | MapFormat
    reason: str
    splits: Mapping[str, Path]
    yolo: YoloFile | None = None


def find_layout(root: Path, wanted: Literal["auto"] | Format = "auto") -> Layout:
    """The layout of a folder. Raises ValueError where it has none of them, or more than one and none is wanted."""
    return only_layout(root, layouts(root, wanted), EXPECTED, wanted)


def layouts(root: Path, wanted: Literal["auto"] | Format = "auto") -> dict[str, Layout]:
    """All formats of detection sets that a folder can be read in. Raises ValueError where it is no folder."""
    require_folder(root)
    finders = {"coco": _find_coco, "crowdhuman": _find_crowdhuman, "voc": _find_voc, "yolo": _find_yolo}
    return {name: layout for name, find in finders.items() if wanted in ("auto", name) and (layout := find(root))}


def require_folder(root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"data.root expected a folder, got {str(root)!r}, which is none.")


def only_layout(root: Path, found: Mapping[str, Layout], expected: Mapping[str, str], wanted: str = "auto") -> Layout:
    """The one layout found; ValueError where there is not just one. expected: what a folder of each format has."""
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        reasons = "; ".join(f"{name}: {layout.reason}" for name, layout in found.items())
        raise ValueError(f"{root} can be read in {len(found)} formats ({reasons}); choose one with --data.format.")
    entries = ", ".join(sorted(p.name for p in root.iterdir())[:12]) or "nothing"
    texts = [f"{text} ({name})" for name, text in expected.items() if wanted in ("auto", name)]
    raise ValueError(f"{root} expected {'; or '.join(texts)}, got {entries}.")


def split_of(name: str) -> str | None:
    """train, val or test, by the words in a name such as instances_train2017; None without one of them."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split, known in SPLITS.items() if any(word in known for word in words)), None)


def choose_split(layout: Layout, split: str, asked: str | None, root: Path) -> tuple[str, Path] | None:
    """The name on disk and the file of `split`: the one asked for, else by its name. None where there is none.

    Raises ValueError where the one asked for is not there, or several fit.
    """
    names = ", ".join(layout.splits) or "none"
    if asked is not None:
        fits = [name for name in layout.splits if asked in (name, relative_name(layout.splits[name], root))]
        fits = fits or [name for name in layout.splits if split_of(name) == split_of(asked) and asked in name]
        if len(fits) == 1:
            return fits[0], layout.splits[fits[0]]
        for path in (root / asked, Path(asked)):
            if path.exists():
                return Path(asked).stem, path
        raise ValueError(f"data.{split} expected a split or an annotation file, got {asked!r}; found: {names}.")
    exact = [name for name in layout.splits if name.lower() in SPLITS[split]]
    fits = exact[:1] or [name for name in layout.splits if split_of(name) == split]
    if len(fits) > 1:
        raise ValueError(f"data.{split} expected one split, got {', '.join(fits)}; name the right one.")
    if not fits and split == "train" and len(layout.splits) == 1 and split_of(next(iter(layout.splits))) is None:
        fits = list(layout.splits)
    return (fits[0], layout.splits[fits[0]]) if fits else None


def coco_image_folders(root: Path, file: Path, name: str) -> list[Path]:
    """Where the pictures of an annotation file may be, likely ones first."""
    short = re.sub(r"^(instances|custom|annotations?)_", "", name)
    split = split_of(name)
    names = dict.fromkeys([short, name, *SPLITS.get(split or "", ())])
    folders = [] if file.parent.name == "annotations" else [file.parent, file.parent / "images"]
    for name in names:
        folders += [root / name, root / "images" / name, root / name / "images"]
    others = [*sorted(root.iterdir()), *(sorted((root / "images").iterdir()) if (root / "images").is_dir() else ())]
    folders += [p for p in others if split is not None and split_of(p.name) == split]
    folders += [root / "images", root / "JPEGImages", root / "data", root, file.parent, *others]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _find_coco(root: Path) -> Layout | None:
    splits: dict[str, Path] = {}
    nested = sorted(root.glob("*/_annotations.coco.json")) + sorted(root.glob("*/annotations.json"))
    for path in nested:
        splits.setdefault(path.parent.name, path)
    plain = sorted((root / "annotations").glob("*.json")) + sorted(p for p in root.glob("*.json") if _is_coco(p))
    plain = [path for path in plain if path not in nested]
    instances = [path for path in plain if not _OTHER_TASKS & set(re.split(r"[^a-z]+", path.stem.lower()))]
    marked = [path for path in instances if path.stem.startswith("instances")]
    for path in instances:
        if path in marked or split_of(path.stem) not in {split_of(p.stem) for p in marked}:
            splits.setdefault(path.stem, path)
    if not splits:
        return None
    return Layout("coco", f"{_listed(root, list(splits.values()))}", splits)


def _is_coco(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(1 << 20)
    return any(key in start for key in (b'"images"', b'"annotations"', b'"categories"'))


def _find_crowdhuman(root: Path) -> Layout | None:
    files = sorted(root.glob("*.odgt")) + sorted((root / "annotations").glob("*.odgt"))
    splits: dict[str, Path] = {}
    for path in files:
        splits.setdefault(path.stem, path)
    return Layout("crowdhuman", _listed(root, list(splits.values())), splits) if splits else None


def _find_voc(root: Path) -> Layout | None:
    folder = root / "Annotations"
    if folder.is_dir() and any(folder.glob("*.xml")):
        lists = sorted((root / "ImageSets" / "Main").glob("*.txt"))
        # Lists of one class (cat_train.txt) sit beside those of the splits.
        whole = {p.stem: p for p in lists if "_" not in p.stem}
        reason = f"Annotations/*.xml with pictures in {images_folder(root).name}"
        if whole:
            return Layout("voc", f"{reason} and {_listed(root, list(whole.values()))}", whole)
        return Layout("voc", f"{reason}, without ImageSets/Main", {"train": folder})
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and split_of(p.name) and any(p.glob("*.xml"))}
    if not folders:
        return None
    return Layout("voc", f"XML files in {_listed(root, list(folders.values()))}", folders)


def _find_yolo(root: Path) -> Layout | None:
    files = sorted(p for p in root.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
    files = [p for p in files if p.stem == "data"] or [p for p in files if _names_classes(p)]
    if len(files) == 1:
        info = read_yaml(files[0])
        reason = f"{files[0].name} with {len(info.names)} names"
        return Layout("yolo", reason, dict.fromkeys(info.entries, files[0]), info)
    lists = [root / name for name in ("classes.txt", "labels/classes.txt", "obj.names") if (root / name).is_file()]
    if not lists or not (root / "images").is_dir() or not (root / "labels").is_dir():
        return None
    if not _has(root / "labels", ".txt") and _has(root / "labels", ".png"):
        return None  # label maps
    lines = lists[0].read_text(encoding="utf-8-sig").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    folders = [p.name for p in sorted((root / "images").iterdir()) if p.is_dir() and split_of(p.name)]
    entries = {name: (f"images/{name}",) for name in folders} or {"train": ("images",)}
    reason = f"images/ and labels/ with {relative_name(lists[0], root)}"
    return Layout("yolo", reason, dict.fromkeys(entries, lists[0]), YoloFile(names, entries))


def _has(folder: Path, suffix: str) -> bool:
    """Whether there is a file of a kind in a folder or in one below it, beside the class list."""
    return any(path.name != "classes.txt" for pattern in ("*", "*/*") for path in folder.glob(pattern + suffix))


def _names_classes(path: Path) -> bool:
    """Whether a YAML file could be a YOLO one; others lie beside any kind of data."""
    with open(path, "rb") as file:
        lines = file.read(1 << 20).splitlines()
    return all(any(line.startswith(key) for line in lines) for key in (b"names:", b"train:"))


def _listed(root: Path, paths: list[Path]) -> str:
    names = [relative_name(path, root) for path in paths]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
