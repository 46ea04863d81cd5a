"""COCO-Stuff: label PNGs with things 0 to 90, stuff 91 to 181 and 255, of the 10K set with lists or of all of COCO.

10K: images/, imageLists/*.txt and the label PNGs in stuffthingmaps/, annotations/, labels/ or masks/. All of COCO:
train2017/ or images/train2017/, and stuffthingmaps/train2017/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .checking_maps import check_maps
from .class_list import ClassList
from .defects import DataError
from .draft import Log, apply_policy
from .file_names import relative_name
from .label_maps import LabelMaps
from .map_draft import MapDraft, draft_maps, pair_folders, pair_list

LABEL_FOLDERS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations", "labels", "masks")
_ADVICE = "numbers one too high are ids, with 0 for unlabeled: subtract one, 0 becoming 255"

# By COCO's ids from 1; eleven things were taken out of COCO and have no pixels.
COCO_STUFF = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk", "toilet",
    "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
    "hair brush",
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower",
    "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow",
    "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof",
    "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone",
    "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
    "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops",
    "window-blind", "window-other", "wood",
)  # fmt: skip


def load_coco_stuff(
    root: Path | str,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> LabelMaps:
    """Reads the names in imageLists/SPLIT.txt, or the label maps in the folder SPLIT. Raises `DataError`."""
    root = Path(root)
    listing = root / "imageLists" / f"{split}.txt"
    place = listing if listing.is_file() else coco_stuff_labels(root) / split
    draft = read_coco_stuff(root, place, classes=classes)
    return apply_policy(check_maps(draft, log=log), on_defect, f"{root}, split {split}", log)


def coco_stuff_labels(root: Path) -> Path:
    """The folder of the label PNGs. Raises `DataError` where there is none."""
    folders = [root / name for name in LABEL_FOLDERS if (root / name).is_dir()]
    for folder in folders:
        if next(folder.glob("*.png"), None) is not None or next(folder.glob("*/*.png"), None) is not None:
            return folder
    matlab = next((folder for folder in folders if next(folder.glob("*.mat"), None) is not None), None)
    came = "none" if matlab is None else f"MATLAB files in {matlab.name}: convert them, subtract one, 0 becoming 255"
    raise DataError(f"{root}: expected label maps as PNG in one of {', '.join(LABEL_FOLDERS)}, got {came}.")


def read_coco_stuff(root: Path, place: Path, *, classes: Sequence[str] | None = None) -> MapDraft:
    """Pairs the pictures and label maps of a list, or of a folder of label maps, into a draft."""
    listed = ClassList.numbered(COCO_STUFF, labels="numbers", source="COCO-Stuff's classes")
    if place.is_dir():
        labels, split = relative_name(place, root), place.name
        pictures = next((name for name in (f"images/{split}", split) if (root / name).is_dir()), f"images/{split}")
        return draft_maps(root, pair_folders(root, pictures, labels), listed, classes, labels, _ADVICE)
    labels = relative_name(coco_stuff_labels(root), root)
    return draft_maps(root, pair_list(root, place, "images", labels), listed, classes, labels, _ADVICE)
