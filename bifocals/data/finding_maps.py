"""Finds out how a folder of images with label maps is laid out, as `finding` does for detection sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .class_list import find_class_list
from .coco_stuff import LABEL_FOLDERS
from .file_names import relative_name
from .finding import Layout, MapFormat, only_layout, require_folder
from .label_folder import label_folders

EXPECTED_MAPS = {
    "cityscapes": "leftImg8bit/ and gtFine/",
    "camvid": "train/ and trainannot/",
    "voc-maps": "SegmentationClass/*.png",
    "cocostuff": "images/, imageLists/*.txt and label PNGs, or stuffthingmaps/",
    "label-folder": "images/ and labels/*.png with classes.txt or classes.json",
}


def find_map_layout(root: Path, wanted: Literal["auto"] | MapFormat = "auto") -> Layout:
    """The layout of a folder. Raises ValueError where it has none of them, or more than one and none is wanted."""
    return only_layout(root, map_layouts(root, wanted), EXPECTED_MAPS, wanted)


def map_layouts(root: Path, wanted: Literal["auto"] | MapFormat = "auto") -> dict[str, Layout]:
    """All formats of segmentation sets that a folder can be read in. Raises ValueError where it is no folder."""
    require_folder(root)
    finders: dict[str, Callable[[Path], Layout | None]] = {
        "cityscapes": _find_cityscapes,
        "camvid": _find_camvid,
        "voc-maps": _find_voc_maps,
        "cocostuff": _find_coco_stuff,
        "label-folder": _find_label_folder,
    }
    return {name: layout for name, find in finders.items() if wanted in ("auto", name) and (layout := find(root))}


def _find_cityscapes(root: Path) -> Layout | None:
    labels = [name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()]
    if not labels or not (root / "leftImg8bit").is_dir():
        return None
    splits = {path.name: path for path in _folders(root / "leftImg8bit") if (root / labels[0] / path.name).is_dir()}
    return Layout("cityscapes", f"leftImg8bit/ and {labels[0]}/", splits) if splits else None


def _find_camvid(root: Path) -> Layout | None:
    splits = {path.name: path for path in _folders(root) if (root / f"{path.name}annot").is_dir()}
    if not splits:
        return None
    return Layout("camvid", ", ".join(f"{name}/ with {name}annot/" for name in splits), splits)


def _find_voc_maps(root: Path) -> Layout | None:
    labels = root / "SegmentationClass"
    if not labels.is_dir() or not (root / "JPEGImages").is_dir() or next(labels.glob("*.png"), None) is None:
        return None
    lists = {path.stem: path for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
    if lists:
        return Layout("voc-maps", f"SegmentationClass/*.png and ImageSets/Segmentation: {', '.join(lists)}", lists)
    return Layout("voc-maps", "SegmentationClass/*.png, without ImageSets/Segmentation", {"train": labels})


def _find_coco_stuff(root: Path) -> Layout | None:
    lists = {path.stem: path for path in sorted((root / "imageLists").glob("*.txt"))}
    labels = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    if lists and labels and (root / "images").is_dir():
        shown = ", ".join(relative_name(path, root) for path in lists.values())
        return Layout("cocostuff", f"images/ and {labels[0].name}/ with {shown}", lists)
    for folder in labels:
        splits = {path.name: path for path in _folders(folder) if _has_png(path)}
        if folder.name.startswith("stuffthingmaps") and splits:
            return Layout("cocostuff", f"{folder.name}/ with {', '.join(splits)}", splits)
    return None


def _find_label_folder(root: Path) -> Layout | None:
    listed = find_class_list(root)
    if listed is None and (root / "imageLists").is_dir():
        return None  # COCO-Stuff
    # COCO keeps panoptic PNGs in folders of annotations/ that belong to no split.
    deep = listed is not None
    folders = {name: pair for name, pair in label_folders(root).items() if _has_png(root / pair[1], deep or name != "")}
    if not folders:
        return None
    shown = ", ".join(f"{pictures}/ with {labels}/" for pictures, labels in folders.values())
    reason = f"{shown} and {relative_name(listed, root)}" if listed else f"{shown}, without a class list"
    # A set without splits is one to train on.
    return Layout("label-folder", reason, {name or "train": root / pair[0] for name, pair in folders.items()})


def _folders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _has_png(folder: Path, deep: bool = True) -> bool:
    """Whether there is a PNG in a folder or, if `deep`, in one below it."""
    patterns = ("*.png", "*.PNG", "*/*.png") if deep else ("*.png", "*.PNG")
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


