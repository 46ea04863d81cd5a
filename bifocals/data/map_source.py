"""Where images with label maps are: from a folder to checked label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from .camvid import camvid_classes, read_camvid
from .checking_maps import check_maps
from .cityscapes import read_cityscapes
from .coco_stuff import read_coco_stuff
from .defects import DataError, Defect
from .draft import Log, apply_policy
from .file_names import relative_name
from .finding import Layout, MapFormat, choose_split, layouts, only_layout
from .finding_maps import EXPECTED_MAPS, find_map_layout, map_layouts
from .label_folder import folder_classes, label_folders, read_label_folder
from .label_maps import LabelMaps
from .leaks import find_leaks
from .map_draft import MapDraft
from .source import Data, SplitName, data_root, find_split, hold_out, split_is_there
from .voc_maps import read_voc_maps

_NAMED = 30  # classes whose names are printed


def open_maps(
    data: Data,
    split: SplitName,
    log: Log | None = print,
    *,
    classes: Sequence[str] | None = None,
    whole: bool = True,
) -> LabelMaps:
    """Finds format and splits, pairs pictures with label maps, checks all of them, and applies `data.on_defect`.

    classes: names in the order of the labels, to open a set with the classes of a trained model; by default
    `data.classes`, else those of the set. `data.classes` also names the classes of a set that has no list of its own.
    whole: look at every pixel of the labels and make sure that each picture is complete, not at headers alone.
    Prints what it found and why. Raises `DataError` with one line for each defect, ValueError without such a split.
    """
    root = data_root(data)
    layout = map_layout(data, root)
    if log is not None:
        log(f"data: {root} is {layout.format}: {layout.reason}")
    draft, name = _read_split(data, layout, root, split, classes, log)
    maps = apply_policy(check_maps(draft, whole, log), data.on_defect, f"{root}, split {name}", log)
    if log is not None:
        log(f"data: {split} = {name}: {maps.summary()}")
    return maps


def has_map_split(data: Data, split: SplitName) -> bool:
    """Whether `open_maps` would find this split."""
    root = data_root(data)
    return split_is_there(data, map_layout(data, root), split, root)


def check_map_set(data: Data, log: Log | None = None) -> list[Defect]:
    """All defects of all splits of a segmentation set; pictures that two splits share are some, too.

    Raises ValueError without a set.
    """
    root = data_root(data)
    layout = map_layout(data, root)
    if log is not None:
        log(f"data: {root} is {layout.format}: {layout.reason}")
    defects: list[Defect] = []
    checked: dict[str, LabelMaps] = {}
    for split in ("train", "val", "test"):
        if choose_split(layout, split, getattr(data, split), root) is None:
            continue
        try:
            draft, name = _read_split(data, layout, root, split, None, log)
            draft = check_maps(draft, log=log)
        except DataError as error:
            defects += error.defects or [Defect(str(root), f"split {split}", str(error), "it", fatal=True)]
            continue
        if layout.format == "cityscapes" and split == "test" and any(defect.fatal for defect in draft.defects):
            if log is not None:
                log("data: the benchmark keeps the labels of test to itself; there is nothing to check")
            continue
        defects += draft.defects
        checked[split] = draft.annotations
        if log is not None:
            log(f"data: {split} = {name}: {draft.annotations.summary()}")
    return [*dict.fromkeys(defects), *find_leaks(checked, root)]


def map_layout(data: Data, root: Path) -> Layout:
    """The layout of a segmentation set. Raises ValueError where the folder is none, also where it is of boxes."""
    for wanted in get_args(MapFormat):
        if data.format == wanted:
            return find_map_layout(root, wanted)
    found = map_layouts(root) if data.format == "auto" else {}
    boxes = {} if found else layouts(root)
    if boxes:
        reasons = "; ".join(f"{name}: {layout.reason}" for name, layout in boxes.items())
        raise ValueError(f"{root} expected label maps for segmentation, got objects to detect ({reasons}).")
    return only_layout(root, found, EXPECTED_MAPS)


def _read_split(
    data: Data, layout: Layout, root: Path, split: SplitName, classes: Sequence[str] | None, log: Log | None
) -> tuple[MapDraft, str]:
    name, place, held_out = find_split(data, layout, split, root)
    wanted, given = classes or data.classes or None, data.classes or classes or ()
    if layout.format == "cityscapes":
        draft = read_cityscapes(root, relative_name(place, root / "leftImg8bit"), classes=wanted)
    elif layout.format == "camvid":
        draft = read_camvid(root, relative_name(place, root), camvid_classes(root, data.classes), classes=wanted)
    elif layout.format == "voc-maps":
        draft = read_voc_maps(root, None if place.is_dir() else place, classes=wanted)
    elif layout.format == "cocostuff":
        draft = read_coco_stuff(root, place, classes=wanted)
    else:
        folders = label_folders(root)
        pair = folders.get(name) or folders.get("")
        if pair is None:
            raise ValueError(f"data.{split} expected one of {', '.join(folders)}, got {name!r}.")
        draft = read_label_folder(root, pair, folder_classes(root, given), classes=wanted)
    if log is not None:
        names = draft.annotations.classes
        listed = ", ".join(f"{label} {name}" for label, name in enumerate(names[:_NAMED]))
        log(f"data: labels: {listed}{f' ... {len(names)} in all' if len(names) > _NAMED else ''}")
    if held_out:
        kept, defects = hold_out(len(draft.annotations), draft.defects, data.holdout, split, log)
        draft = replace(draft, annotations=draft.annotations.subset(kept), defects=defects)
    return draft, name
