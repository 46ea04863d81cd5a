"""Pascal VOC segmentation: JPEGImages, SegmentationClass (palette PNG, 255 is void), ImageSets/Segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .checking_maps import check_maps
from .class_list import ClassList
from .draft import Log, apply_policy
from .label_maps import Color, LabelMaps
from .map_draft import MapDraft, draft_maps, pair_folders, pair_list

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_VOID: Color = (224, 224, 192)
_LISTS = "ImageSets/Segmentation"


def load_voc_maps(
    root: Path | str,
    split: str | None = "train",
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> LabelMaps:
    """Reads the names in ImageSets/Segmentation/SPLIT.txt, or with None all label maps. Raises `DataError`."""
    root = Path(root)
    names = None if split is None else root / _LISTS / f"{split}.txt"
    draft = read_voc_maps(root, names, classes=classes)
    subject = f"{root}" if split is None else f"{root}, split {split}"
    return apply_policy(check_maps(draft, log=log), on_defect, subject, log)


def voc_classes_of_maps() -> ClassList:
    """Background and the 20 classes in the colors of VOC's palette."""
    colors = tuple(voc_color(number) for number in range(len(VOC_CLASSES)))
    return ClassList.numbered(VOC_CLASSES, colors=colors, ignored_colors=(_VOID,), source="VOC's classes")


def voc_color(number: int) -> Color:
    """The color of a number in VOC's palette: its bits, three at a time, become the high bits of red, green, blue."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return color[0], color[1], color[2]


def read_voc_maps(root: Path, names_file: Path | None, *, classes: Sequence[str] | None = None) -> MapDraft:
    """Pairs the pictures and label maps of a list into a draft.

    Where there is a folder SegmentationClassAug, it has the labels of a list whose name says aug, such as that of the
    10,582 images to which SBD added.
    """
    listed = voc_classes_of_maps()
    if names_file is None:
        # Most pictures of VOC have boxes alone: those without a label map are not meant.
        pairs = pair_folders(root, "JPEGImages", "SegmentationClass", label_end="", labeled=True)
        return draft_maps(root, pairs, listed, classes, "SegmentationClass")
    labels = "SegmentationClass"
    if "aug" in names_file.stem and (root / "SegmentationClassAug").is_dir():
        labels = "SegmentationClassAug"
    return draft_maps(root, pair_list(root, names_file, "JPEGImages", labels), listed, classes, labels)
