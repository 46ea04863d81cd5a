"""Checks a folder, whatever task it is made for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from .defects import Defect
from .draft import Log
from .finding import EXPECTED, Format, MapFormat, layouts, only_layout
from .finding_maps import EXPECTED_MAPS, map_layouts
from .map_source import check_map_set
from .source import Data, check_detection_set, data_root


def check_dataset(
    root: str | Path | Data,
    log: Log | None = None,
    format: Literal["auto"] | Format | MapFormat = "auto",
    masks: bool = False,
) -> list[Defect]:
    """All defects of all splits of a folder; an empty list means that it is sound.

    A folder of boxes and one of label maps are told apart by their layout; one that can be both needs a format.
    masks: also look at the masks of objects, where a detection set has any. Raises ValueError without a set.
    """
    data = root if isinstance(root, Data) else Data(root=str(root), format=format)
    if is_map_set(data):
        return check_map_set(data, log)
    return check_detection_set(data, log, masks=masks)


def is_map_set(data: Data) -> bool:
    """Whether a folder holds label maps, not boxes. Raises ValueError where it holds neither, or both."""
    if data.format in get_args(MapFormat):
        return True
    if data.format in get_args(Format):
        return False
    root = data_root(data)
    boxes, maps = layouts(root), map_layouts(root)
    if boxes and maps:
        reasons = "; ".join(f"{name}: {layout.reason}" for name, layout in {**boxes, **maps}.items())
        raise ValueError(f"{root} can be read as {' or '.join([*boxes, *maps])} ({reasons}); choose one with --format.")
    if not boxes and not maps:
        only_layout(root, {}, {**EXPECTED, **EXPECTED_MAPS})  # raises
    return bool(maps)
