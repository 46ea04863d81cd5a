"""CamVid in SegNet's layout: train/ beside trainannot/, likewise val and test; labels 0 to 10, and 11 for void."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bifocals.structures import IGNORED

from .checking_maps import check_maps
from .class_list import ClassList, find_class_list, read_class_list
from .draft import Log, apply_policy
from .file_names import relative_name
from .label_maps import LabelMaps
from .map_draft import MapDraft, draft_maps, pair_folders

CAMVID = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
_VOID = (0, 0, 0)


def load_camvid(
    root: Path | str,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> LabelMaps:
    """Reads the pictures and labels of a split. All are checked. Raises `DataError`."""
    root = Path(root)
    draft = read_camvid(root, split, camvid_classes(root), classes=classes)
    return apply_policy(check_maps(draft, log=log), on_defect, f"{root}, split {split}", log)


def camvid_classes(root: Path, names: Sequence[str] = ()) -> ClassList:
    """The classes of a folder in this layout: its own class list, else `names` of other classes, else CamVid's eleven.

    The number behind those of the classes is void, as is 255.
    """
    path = find_class_list(root)
    if path is not None:
        return read_class_list(path, relative_name(path, root))
    if not set(names) <= set(CAMVID):
        return ClassList.numbered(names, (len(names), IGNORED), source="the classes given")
    colors = tuple(CAMVID.values())
    void = (len(CAMVID), IGNORED)
    return ClassList.numbered(tuple(CAMVID), void, colors, ignored_colors=(_VOID,), source="CamVid's classes")


def read_camvid(root: Path, split: str, listed: ClassList, *, classes: Sequence[str] | None = None) -> MapDraft:
    """Pairs the pictures and label maps of a split into a draft."""
    return draft_maps(root, pair_folders(root, split, f"{split}annot"), listed, classes, f"{split}annot")
