"""Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png or _labelIds.

The coarse labels, gtCoarse, likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bifocals.structures import IGNORED

from .checking_maps import check_maps
from .class_list import ClassList
from .defects import DataError
from .draft import Log, apply_policy
from .file_names import image_files
from .label_maps import LabelMaps
from .map_draft import MapDraft, draft_maps, pair_folders

_PICTURE_END = "_leftImg8bit"
_LARGEST_ID = 33

# trainId: (labelId, name, color), of the benchmark's own list
CITYSCAPES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)


def cityscapes_classes(numbers: Literal["trainIds", "labelIds"] = "trainIds") -> ClassList:
    """The 19 classes of the benchmark, stored as 0 to 18 with 255, or as their ids among all 34 labels."""
    names = tuple(name for _, name, _ in CITYSCAPES)
    colors = tuple(color for _, _, color in CITYSCAPES)
    if numbers == "trainIds":
        return ClassList.numbered(names, colors=colors, labels="numbers", source="Cityscapes' trainIds")
    ids = [number for number, _, _ in CITYSCAPES]
    others = tuple(number for number in range(_LARGEST_ID + 1) if number not in ids)
    values = tuple((number,) for number in ids)
    return ClassList(names, values, (*others, IGNORED), colors, labels="numbers", source="Cityscapes' labelIds")


def load_cityscapes(
    root: Path | str,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> LabelMaps:
    """Reads the pictures and labels of a split, trainIds where there are any. All are checked. Raises `DataError`."""
    root = Path(root)
    draft = read_cityscapes(root, split, classes=classes)
    return apply_policy(check_maps(draft, log=log), on_defect, f"{root}, split {split}", log)


def read_cityscapes(root: Path, split: str, *, classes: Sequence[str] | None = None) -> MapDraft:
    """Pairs the pictures and label maps of a split into a draft."""
    kind = cityscapes_labels(root)
    labels = f"{kind}/{split}"
    files = image_files(root / labels)
    ends = {"trainIds": f"_{kind}_labelTrainIds", "labelIds": f"_{kind}_labelIds"}
    there = [name for name, end in ends.items() if any(file.endswith(f"{end}.png") for file in files)]
    if not there:
        came = f"{len(files)} other pictures" if files else "no picture"
        expected = " or ".join(f"*{end}.png" for end in ends.values())
        raise DataError(f"{labels}: expected label maps {expected}, got {came}.")
    pairs = pair_folders(root, f"leftImg8bit/{split}", labels, _PICTURE_END, ends[there[0]])
    listed = cityscapes_classes("trainIds" if there[0] == "trainIds" else "labelIds")
    return draft_maps(root, pairs, listed, classes, labels)


def cityscapes_labels(root: Path) -> str:
    """The folder of the labels: fine ones where there are any."""
    return "gtFine" if (root / "gtFine").is_dir() else "gtCoarse"
