"""Where the images are: from a folder to checked annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .annotations import Annotations
from .checking import check_draft
from .coco import coco_classes, read_coco
from .crowdhuman import read_crowdhuman
from .dataset import philox_order
from .defects import DataError, Defect
from .draft import Draft, Log, apply_policy, with_defects
from .file_names import name_problem, relative_name
from .finding import (
    EXPECTED,
    Format,
    Layout,
    MapFormat,
    choose_split,
    coco_image_folders,
    find_layout,
    layouts,
    only_layout,
)
from .finding_maps import map_layouts
from .leaks import find_leaks
from .voc import images_folder, pictures_of_2007, read_voc, voc_classes
from .yolo import read_yolo, yolo_images

SplitName = Literal["train", "val", "test"]
_SAMPLED = 100  # file names looked up to find the folder of the pictures


@dataclass(frozen=True)
class Data:
    """Where the images and their annotations are."""

    root: str = ""
    """Folder of the data set."""
    format: Literal[
        "auto", "coco", "crowdhuman", "voc", "yolo", "cityscapes", "camvid", "voc-maps", "cocostuff", "label-folder"
    ] = "auto"
    """COCO JSON, CrowdHuman odgt, Pascal VOC XML or YOLO txt; for segmentation Cityscapes, CamVid, VOC's label maps,
    COCO-Stuff or a folder of images and label PNGs; auto finds it from the files in the folder."""
    train: str | None = None
    """Split to train on: its name on disk or an annotation file; found by its name where not given."""
    val: str | None = None
    """Split to evaluate on during training, likewise."""
    test: str | None = None
    """Split for the final numbers, likewise."""
    images: str | None = None
    """Folder of the pictures, for COCO, CrowdHuman and VOC; found from the file names where not given."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their labels; by default those of the training split."""
    holdout: float = 0.0
    """Share of the training images held out as val, where the folder has no val split."""
    one_based: bool = False
    """VOC coordinates count from 1, as in the original Pascal VOC; else they are used as they are."""
    difficult: Literal["leave-out", "keep"] = "leave-out"
    """VOC objects marked difficult in training: left out of the objects, or kept like any. Evaluation ignores them."""
    allow_2007: bool = False
    """Train on pictures named 2007_*, which VOC 2012 has for segmentation: a third of them are in VOC 2007's test."""
    on_defect: Literal["fail", "skip"] = "fail"
    """fail: stop at any defect, listing them all; skip: leave the images concerned out whole, and list them."""

    def __post_init__(self) -> None:
        formats = (*get_args(Format), *get_args(MapFormat))
        if self.format not in ("auto", *formats):
            known = ", ".join(formats)
            raise ValueError(f"Data expected format to be auto or one of {known}, got {self.format!r}.")
        if self.on_defect not in ("fail", "skip"):
            raise ValueError(f"Data expected on_defect to be fail or skip, got {self.on_defect!r}.")
        if self.difficult not in ("leave-out", "keep"):
            raise ValueError(f"Data expected difficult to be leave-out or keep, got {self.difficult!r}.")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"Data expected holdout to be a share from 0 to below 1, got {self.holdout}.")


def open_split(
    data: Data,
    split: SplitName,
    log: Log | None = print,
    *,
    classes: Sequence[str] | None = None,
    whole: bool = True,
    masks: bool = False,
) -> Annotations:
    """Finds format and splits, reads one, checks every record and every image, and applies `data.on_defect`.

    classes: names in the order of the labels, to open a set with the classes of a trained model; by default
    `data.classes`, else those of the training split. whole: also make sure that each picture is complete.
    masks: also read and check the objects' masks. Prints what it found and why. Raises `DataError` with one line for
    each defect, ValueError without such a split and for a set without masks where they are asked for.
    """
    root = data_root(data)
    layout = detection_layout(data, root)
    if log is not None:
        log(f"data: {root} is {layout.format}: {layout.reason}")
    draft, name = _read_split(data, layout, root, split, classes, masks, log)
    checked = check_draft(draft, whole, log)
    annotations = apply_policy(checked, data.on_defect, f"{root}, split {name}", log)
    if masks and annotations.segmentations is None:
        raise ValueError(f"{root}, split {name}, expected masks of its objects, which a set in COCO JSON can have as "
                         f"segmentation, got {layout.format} with none in {len(annotations.boxes)} objects.")
    if log is not None:
        log(f"data: {split} = {name}: {annotations.summary()}")
    return annotations


def has_split(data: Data, split: SplitName) -> bool:
    """Whether `open_split` would find this split."""
    root = data_root(data)
    return split_is_there(data, detection_layout(data, root), split, root)


def check_detection_set(
    root: str | Path | Data, log: Log | None = None, format: Literal["auto"] | Format = "auto", masks: bool = False
) -> list[Defect]:
    """All defects of all splits of a folder; an empty list means that it is sound. Raises ValueError without a set.

    A picture that two splits share is one, too. masks: also look at the masks of objects, where the set has any.
    """
    data = root if isinstance(root, Data) else Data(root=str(root), format=format)
    folder = data_root(data)
    layout = detection_layout(data, folder)
    if log is not None:
        log(f"data: {folder} is {layout.format}: {layout.reason}")
    defects: list[Defect] = []
    found: dict[str, Annotations] = {}
    for split in ("train", "val", "test"):
        if choose_split(layout, split, getattr(data, split), folder) is None:
            continue
        try:
            draft, name = _read_split(data, layout, folder, split, None, masks, log)
            draft = check_draft(draft, log=log)
        except DataError as error:
            defects += error.defects or [Defect(str(folder), f"split {split}", str(error), "it", fatal=True)]
            continue
        defects += draft.defects
        found[split] = draft.annotations
        if log is not None:
            log(f"data: {split} = {name}: {draft.annotations.summary()}")
    return [*dict.fromkeys(defects), *find_leaks(found, folder)]


def detection_layout(data: Data, root: Path) -> Layout:
    """The layout of a detection set. Raises ValueError where the folder is none, also where it holds label maps."""
    for wanted in get_args(Format):
        if data.format == wanted:
            return find_layout(root, wanted)
    found = layouts(root) if data.format == "auto" else {}
    maps = {} if found else map_layouts(root)
    if maps:
        reasons = "; ".join(f"{name}: {layout.reason}" for name, layout in maps.items())
        raise ValueError(f"{root} expected objects to detect, got label maps for segmentation ({reasons}).")
    return only_layout(root, found, EXPECTED)


def data_root(data: Data) -> Path:
    """The folder of a data set. Raises ValueError where none is given."""
    if not data.root:
        raise ValueError("Data expected the folder of a data set as root, got none; give it with --data.root.")
    return Path(data.root).expanduser()


def split_is_there(data: Data, layout: Layout, split: SplitName, root: Path) -> bool:
    """Whether a set has a split, or a training split that it can be held out of."""
    if choose_split(layout, split, getattr(data, split), root) is not None:
        return True
    return split == "val" and data.holdout > 0 and choose_split(layout, "train", data.train, root) is not None


def find_split(data: Data, layout: Layout, split: SplitName, root: Path) -> tuple[str, Path, bool]:
    """The name and place of a split, and whether it is a part of the training split (`holdout`). ValueError if there is
    none.
    """
    chosen = choose_split(layout, split, getattr(data, split), root)
    held_out = split in ("train", "val") and data.holdout > 0 and choose_split(layout, "val", data.val, root) is None
    if chosen is None and split == "val" and held_out:
        chosen = choose_split(layout, "train", data.train, root)
    if chosen is None:
        found = ", ".join(layout.splits) or "none"
        hint = " or hold some of the training images out with --data.holdout 0.2" if split == "val" else ""
        raise ValueError(f"{root} expected a {split} split, got {found}; name one with --data.{split}{hint}.")
    return *chosen, held_out


def hold_out(
    num: int, defects: Sequence[Defect], share: float, split: str, log: Log | None
) -> tuple[NDArray[np.int64], tuple[Defect, ...]]:
    """Which of `num` images are of this split, and the defects of these under their new numbers.

    Every image falls to train or val by a draw of its own place in the set, the same at each call.
    """
    order = philox_order(0, 0, num)
    cut = round(num * share)
    kept = np.sort(order[:cut] if split == "val" else order[cut:])
    place = {int(old): new for new, old in enumerate(kept)}
    if log is not None:
        log(f"data: no val split: {cut} of {num} training images are held out as val")
    return kept, tuple(
        replace(d, images=tuple(place[i] for i in d.images if i in place))
        for d in defects
        if not d.images or any(i in place for i in d.images)
    )


def _read_split(
    data: Data, layout: Layout, root: Path, split: SplitName, classes: Sequence[str] | None, masks: bool,
    log: Log | None,
) -> tuple[Draft, str]:
    name, file, held_out = find_split(data, layout, split, root)
    names = classes or data.classes or _training_classes(data, layout, root, split, held_out)
    if layout.format == "coco":
        draft = read_coco(
            file, lambda files: _image_folder(data, root, file, name, files, log), root=root, classes=names,
            masks=masks, log=log,
        )
    elif layout.format == "crowdhuman":
        draft = read_crowdhuman(file, _given(data, root), root=root, classes=names, log=log)
    elif layout.format == "voc":
        folder, images, listing = _voc_folders(data, root, file)
        draft = read_voc(folder, images, listing, root=root, classes=names, one_based=data.one_based)
    else:
        assert layout.yolo is not None
        draft = read_yolo(yolo_images(layout.yolo, name, root), layout.yolo.names, root=root, classes=names, log=log)
    if layout.format != "coco" and log is not None:
        listed = ", ".join(f"{label} {name}" for label, name in enumerate(draft.annotations.classes))
        log(f"data: labels: {listed}")
    if split == "train" and layout.format == "voc" and not data.allow_2007:
        draft = with_defects(draft, pictures_of_2007(draft))
    if held_out:
        draft = _hold_out(draft, data.holdout, split, log)
    if split == "train" and data.difficult == "keep":
        crowd = draft.annotations.crowd & ~draft.annotations.difficult
        draft = replace(draft, annotations=replace(draft.annotations, crowd=crowd))
    return draft, name


def _training_classes(data: Data, layout: Layout, root: Path, split: str, held_out: bool) -> tuple[str, ...] | None:
    """The classes of the training split, None where the split to be read is that one or where there is none."""
    if split == "train" or held_out or layout.format in ("crowdhuman", "yolo"):
        return None
    chosen = choose_split(layout, "train", data.train, root)
    if chosen is None:
        return None
    file = chosen[1]
    if layout.format == "coco":
        return coco_classes(file, relative_name(file, root))
    folder, _, listing = _voc_folders(data, root, file)
    return voc_classes(folder, listing, root)


def _voc_folders(data: Data, root: Path, file: Path) -> tuple[Path, Path, Path | None]:
    """The folders of the XML files and of the pictures, and the list of names."""
    if file.is_dir():
        images = root if file.name == "Annotations" else file
        return file, _given(data, root) or images_folder(images), None
    return root / "Annotations", _given(data, root) or images_folder(root), file


def _given(data: Data, root: Path) -> Path | None:
    if data.images is None:
        return None
    folder = next((p for p in (root / data.images, Path(data.images)) if p.is_dir()), None)
    if folder is None:
        raise ValueError(f"data.images expected a folder, got {data.images!r}, which is none in {root}.")
    return folder


def _image_folder(data: Data, root: Path, file: Path, name: str, files: Sequence[str], log: Log | None) -> Path:
    """The folder where most of a sample of the file names are."""
    given = _given(data, root)
    folders = [given] if given is not None else coco_image_folders(root, file, name)
    sample = [f for f in files[:: max(1, len(files) // _SAMPLED)] if name_problem(f) is None]
    counts = [sum(os.path.lexists(folder / f) for f in sample) for folder in folders]
    best = int(np.argmax(counts)) if counts else 0
    if sample and given is None and (not counts or counts[best] == 0):
        looked = ", ".join(relative_name(folder, root) for folder in folders) or "no folder"
        what = "expected the picture in one of the folders of the set"
        raise DataError(
            f"{relative_name(file, root)}: {what}, got none of {len(sample)} file names in {looked}; "
            "name the folder with --data.images.",
            [Defect(relative_name(file, root), f"file_name {sample[0]}", what, f"none in {looked}", fatal=True)],
        )
    folder = folders[best] if folders else file.parent
    if log is not None:
        shown = relative_name(folder, root)
        log(
            f"data: {name}: pictures in {'the folder itself' if shown == '.' else shown}, where "
            f"{counts[best] if counts else 0} of {len(sample)} file names looked up are"
        )
    return folder


def _hold_out(draft: Draft, share: float, split: str, log: Log | None) -> Draft:
    kept, defects = hold_out(len(draft.annotations), draft.defects, share, split, log)
    rows = np.isin(draft.annotations.image_index(), kept)
    sources = (
        draft.sources
        if isinstance(draft.sources, str)
        else type(draft.sources).pack(draft.sources[int(i)] for i in kept)
    )
    return replace(
        draft, annotations=draft.annotations.subset(kept), records=draft.records[rows], sources=sources,
        defects=defects, masks=None if draft.masks is None else draft.masks.take(np.flatnonzero(rows)),
    )
