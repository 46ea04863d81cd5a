"""COCO JSON: one file of images, annotations and categories.

Letters: I images, N objects, C classes.
"""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .annotations import Annotations, PackedStrings, pack_annotations
from .checking import check_boxes, check_masks
from .defects import DataError, Defect, data_error
from .draft import Draft, Log, apply_policy
from .file_names import name_problem, relative_name
from .json_records import BadRecord, BrokenFile, read_arrays

_UNKNOWN = -(2**63)  # a size that the file does not give
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Image(msgspec.Struct, gc=False):
    id: _Int
    file_name: str
    width: _Int | None = None
    height: _Int | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: _Int
    image_id: _Int
    category_id: _Int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0


class _Masked(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw()


class _Category(msgspec.Struct, gc=False):
    id: _Int
    name: str
    supercategory: str | None = None


@dataclass
class _Parsed:
    """The file's records as columns, in its order."""

    names: list[str] = field(default_factory=list)
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    sizes_hw: array[int] = field(default_factory=lambda: array("q"))
    ids: array[int] = field(default_factory=lambda: array("q"))
    owners: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    areas: array[float] = field(default_factory=lambda: array("d"))
    crowd: bytearray = field(default_factory=bytearray)
    masks: bytearray = field(default_factory=bytearray)  # as the file writes them, one after the other
    mask_ends: array[int] = field(default_factory=lambda: array("q", [0]))
    classes: list[_Category] = field(default_factory=list)
    bad: list[tuple[Defect, int]] = field(default_factory=list)
    bad_images: set[int] = field(default_factory=set)
    defects: list[Defect] = field(default_factory=list)


def load_coco(
    path: Path | str,
    images: Path | str | None = None,
    *,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> Annotations:
    """Reads `path`; `images` is the folder of its pictures, where None the file's own.

    classes: names of the classes in their order, where None the file's categories sorted by id. masks: also read the
    masks of the objects. Boxes, masks and records are checked, pictures are not opened. Raises `DataError`.
    """
    path = Path(path)
    folder = path.parent if images is None else Path(images)
    draft = read_coco(path, lambda names: folder, root=path.parent, classes=classes, masks=masks, log=log)
    draft = check_masks(check_boxes(draft), log)
    return apply_policy(draft, on_defect, str(path), log)


def read_coco(
    path: Path,
    find_folder: Callable[[Sequence[str]], Path],
    *,
    root: Path,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    log: Log | None = None,
) -> Draft:
    """Reads a file into a draft. `find_folder` gets the file names and says which folder they are in.

    root: the data set's folder; messages name files as seen from it, and images may lie in it through links.
    masks: also take the segmentations, as they are written.
    """
    shown = relative_name(path, root)
    parsed = _parse(path, shown, masks)
    folder = find_folder(parsed.names)
    image_ids = np.array(parsed.image_ids, dtype=np.int64)
    sizes = np.array(parsed.sizes_hw, dtype=np.int64).reshape(-1, 2)
    defects = [*parsed.defects, *_image_defects(parsed, shown, image_ids, sizes)]

    ids = np.array(parsed.ids, dtype=np.int64)
    rows, known = _look_up(np.array(parsed.owners, dtype=np.int64), image_ids)
    for i in np.flatnonzero(~known):
        if parsed.owners[i] in parsed.bad_images:
            continue  # it goes with its image
        what = "expected an image_id that the file has"
        defects.append(Defect(shown, f"annotation {ids[i]}", what, str(parsed.owners[i])))
    for value, twins in _twice(ids):
        concerned = tuple(sorted({int(rows[i]) for i in twins if known[i]}))
        what = "expected an id of its own"
        defects.append(Defect(shown, f"annotation {value}", what, f"{len(twins)} with the id {value}", concerned))

    names, file_ids = choose_classes(
        parsed.classes, set(np.unique(np.array(parsed.categories, dtype=np.int64)).tolist()), classes, shown, log
    )
    labels, category_known = _labels(parsed, names, shown, rows, known, defects)
    keep = known & category_known
    boxes = np.array(parsed.boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    area = np.array(parsed.areas, dtype=np.float64)
    for i in np.flatnonzero((area < 0) & keep):
        what = "expected an area of 0 or more"
        defects.append(Defect(shown, f"annotation {ids[i]}", what, f"{area[i]:.8g}", (int(rows[i]),)))
    crowd = np.frombuffer(bytes(parsed.crowd), dtype=bool)
    for defect, owner in parsed.bad:
        at, found = _look_up(np.array([owner], dtype=np.int64), image_ids)
        defects.append(replace(defect, images=(int(at[0]),)) if found[0] else defect)

    annotations, order = pack_annotations(
        folder,
        parsed.names,
        image_ids,
        sizes.clip(0, 2**31 - 1).astype(np.int32),
        rows[keep],
        boxes[keep],
        labels[keep],
        crowd[keep],
        area[keep],
        names,
        file_ids,
        upright=False,
    )
    allowed = (os.path.realpath(root), os.path.realpath(folder))
    written = None
    if masks:
        ends = np.array(parsed.mask_ends, dtype=np.int64)
        written = PackedStrings(np.frombuffer(parsed.masks, dtype=np.uint8), ends).take(np.flatnonzero(keep)[order])
    return Draft(annotations, ids[keep][order], "annotation", shown, "xywh", allowed, tuple(defects), masks=written)


def _parse(path: Path, shown: str, masks: bool) -> _Parsed:
    """The columns of a file. Raises `DataError` where it has not the form of COCO."""
    parsed = _Parsed()

    def take(key: str, records: list[Any]) -> None:
        if key == "annotations":
            for r in records:
                parsed.ids.append(r.id)
                parsed.owners.append(r.image_id)
                parsed.categories.append(r.category_id)
                parsed.boxes.extend(r.bbox)
                parsed.areas.append(math.nan if r.area is None else r.area)
                parsed.crowd.append(bool(r.iscrowd))
            if masks:
                for r in records:
                    parsed.masks += r.segmentation
                    parsed.mask_ends.append(len(parsed.masks))
        elif key == "images":
            for r in records:
                parsed.names.append(r.file_name)
                parsed.image_ids.append(r.id)
                parsed.sizes_hw.extend(
                    (_UNKNOWN if r.height is None else r.height, _UNKNOWN if r.width is None else r.width)
                )
        else:
            parsed.classes.extend(records)

    def take_bad(key: str, bad: BadRecord) -> None:
        name, noun = bad.scalar("id"), {"images": "image", "annotations": "annotation", "categories": "category"}[key]
        owner = bad.scalar("image_id" if key == "annotations" else "id")
        number = int(owner) if owner is not None and re.fullmatch(r"-?\d{1,18}", owner) else None
        record = f"{noun} {name}" if name is not None else f"{noun} at position {bad.position}"
        # An annotation that cannot be laid at the door of an image leaves no image to trust.
        fatal = key == "categories" or (key == "annotations" and number is None)
        defect = Defect(shown, record, bad.what, bad.excerpt, fatal=fatal)
        if key == "annotations" and number is not None:
            parsed.bad.append((defect, number))
            return
        parsed.defects.append(defect)
        if key == "images" and number is not None:
            parsed.bad_images.add(number)

    kinds = {"images": _Image, "annotations": _Masked if masks else _Annotation, "categories": _Category}
    try:
        found = read_arrays(path, kinds, take, take_bad)
    except BrokenFile as broken:
        raise _broken(broken, shown) from None
    missing = [key for key in kinds if key not in found]
    if missing:
        what = f"expected the keys {', '.join(kinds)}"
        raise _broken(BrokenFile("top level", what, f"no {', '.join(missing)}"), shown)
    return parsed


def _broken(broken: BrokenFile, shown: str) -> DataError:
    return data_error(shown, [Defect(shown, broken.record, broken.what, broken.value, fatal=True)])


def _image_defects(parsed: _Parsed, shown: str, image_ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[Defect]:
    """Ids and file names given twice, names that leave the folder, sizes that are none. Sizes not given become 0."""
    defects = []
    for row, name in enumerate(parsed.names):
        problem = name_problem(name)
        if problem is not None:
            defects.append(Defect(shown, f"image {image_ids[row]}", problem, name or "nothing", (row,)))
    for value, places in _twice(image_ids):
        files = " and ".join(parsed.names[row] for row in places)
        what = "expected an id of its own"
        defects.append(Defect(shown, f"image {value}", what, f"it for {files}", tuple(places.tolist())))
    if len(set(parsed.names)) < len(parsed.names):
        rows_by_name: dict[str, list[int]] = {}
        for row, name in enumerate(parsed.names):
            rows_by_name.setdefault(name, []).append(row)
        for name, rows in rows_by_name.items():
            if len({parsed.image_ids[row] for row in rows}) > 1:
                # The objects of one picture are spread over two records: each would train the others as background.
                numbers = " and ".join(str(parsed.image_ids[row]) for row in rows)
                defects.append(Defect(shown, f"images {numbers}", "expected a file_name of its own", name, tuple(rows)))
    given = sizes != _UNKNOWN
    for row in map(int, np.flatnonzero((given & (sizes <= 0)).any(axis=1) | (given[:, 0] != given[:, 1]))):
        height, width = (None if v == _UNKNOWN else v for v in sizes[row].tolist())
        what = "expected a positive width and height, or neither"
        defects.append(Defect(shown, f"image {image_ids[row]}", what, f"width {width} height {height}", (row,)))
    sizes[~(given & (sizes > 0)).all(axis=1)] = 0
    return defects


def _labels(
    parsed: _Parsed,
    names: Sequence[str],
    shown: str,
    rows: NDArray[np.int64],
    known: NDArray[np.bool_],
    defects: list[Defect],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels by the name of the category, and where there is one. One line for each category that is unknown."""
    label_of = {name: label for label, name in enumerate(names)}
    names_by_id = {category.id: category.name for category in parsed.classes}
    values, inverse = np.unique(np.array(parsed.categories, dtype=np.int64), return_inverse=True)
    labels = np.array([label_of.get(names_by_id.get(int(v), ""), -1) for v in values], dtype=np.int64)[inverse]
    unknown = (labels < 0) & known
    for value in values:
        at = np.flatnonzero(unknown & (values[inverse] == value))
        if len(at) == 0:
            continue
        more = f" and {len(at) - 1} more" if len(at) > 1 else ""
        name = names_by_id.get(int(value))
        what = "expected a category of the file" if name is None else "expected a category of the training set"
        text = f"category_id {value}" if name is None else f"category_id {value} {name!r}"
        concerned = tuple(sorted({int(i) for i in rows[at]}))
        defects.append(Defect(shown, f"annotation {parsed.ids[int(at[0])]}{more}", what, text, concerned))
    return labels, labels >= 0


def _twice(values: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each value that occurs more than once, and its places."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ends = np.flatnonzero(np.diff(ordered)) + 1
    starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(values)]])
    for start, stop in zip(starts[stops - starts > 1], stops[stops - starts > 1], strict=True):
        yield int(ordered[start]), order[start:stop]


def _look_up(values: NDArray[np.int64], keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each value in `keys`, and whether it is there."""
    if len(keys) == 0:
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    order = np.argsort(keys, kind="stable")
    place = order[np.searchsorted(keys, values, sorter=order).clip(max=len(keys) - 1)]
    return place, keys[place] == values


def coco_classes(path: Path, shown: str, log: Log | None = None) -> tuple[str, ...]:
    """The classes of a file, as `load_coco` would number them."""
    used: set[int] = set()
    categories: list[_Category] = []

    class Used(msgspec.Struct, gc=False):
        category_id: _Int | None = None

    def take(key: str, records: list[Any]) -> None:
        if key == "categories":
            categories.extend(records)
        else:
            used.update(record.category_id for record in records)

    try:
        read_arrays(path, {"categories": _Category, "annotations": Used}, take, lambda key, bad: None)
    except BrokenFile as broken:
        raise _broken(broken, shown) from None
    return choose_classes(categories, used, None, shown, log)[0]


def choose_classes(
    categories: Sequence[_Category], used: set[int], classes: Sequence[str] | None, shown: str, log: Log | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The class names in their order and the file's id of each. Raises `DataError` on ids or names given twice."""
    for what, values in (("id", [c.id for c in categories]), ("name", [c.name for c in categories])):
        twice = {value: times for value, times in Counter(values).items() if times > 1}
        if twice:
            wanted = f"expected a {what} of its own"
            defects = [Defect(shown, f"category {v}", wanted, f"it {n} times", fatal=True) for v, n in twice.items()]
            raise data_error(shown, defects)
    ordered = sorted(categories, key=lambda category: category.id)
    ids_by_name = {category.name: category.id for category in ordered}
    if classes is None:
        # Roboflow writes the name of the project as a category of its own, above the others and never used.
        above = {c.supercategory for c in categories if c.supercategory != c.name}
        chosen = [c for c in ordered if c.id in used or c.name not in above or c.supercategory not in (None, "none")]
        for category in ordered:
            if category not in chosen and log is not None:
                log(f"data: {shown}: category {category.id} {category.name!r} is but the heading of others: left out")
        classes = [c.name for c in chosen]
    # A class that this file lacks gets an id that no category of the file has.
    free = max([c.id for c in categories], default=0) + 1
    file_ids = []
    for name in classes:
        file_ids.append(ids_by_name.get(name, free))
        free += name not in ids_by_name
    if log is not None:
        pairs = enumerate(zip(classes, file_ids, strict=True))
        mapping = ", ".join(f"{file_id}->{label} {name}" for label, (name, file_id) in pairs)
        log(f"data: {shown}: category ids -> labels: {mapping}")
    return tuple(classes), tuple(file_ids)


def save_coco(annotations: Annotations, path: Path | str, segmentations: Sequence[Any] | None = None) -> Path:
    """Writes one JSON file; `file_name` is relative to `annotations.root`, where the pictures stay.

    segmentations: of each object, as COCO has them (polygons or RLE); where None the set's own masks, if it has them.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {
            "id": int(annotations.image_ids[i]),
            "file_name": annotations.files[i],
            "height": int(annotations.sizes_hw[i, 0]),
            "width": int(annotations.sizes_hw[i, 1]),
        }
        for i in range(len(annotations))
    ]
    owners = annotations.image_index()
    objects = []
    for i, (x1, y1, x2, y2) in enumerate(annotations.boxes.tolist()):
        record = {
            "id": i + 1,
            "image_id": int(annotations.image_ids[owners[i]]),
            "category_id": annotations.category_ids[int(annotations.labels[i])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(annotations.area[i]),
            "iscrowd": int(annotations.crowd[i]),
        }
        if segmentations is not None:
            record["segmentation"] = segmentations[i]
        elif annotations.segmentations is not None and annotations.segmentations[i]:
            size_hw = annotations.sizes_hw[owners[i]].tolist()
            record["segmentation"] = {"size": size_hw, "counts": annotations.segmentations[i]}
        objects.append(record)
    categories = [{"id": i, "name": n} for i, n in zip(annotations.category_ids, annotations.classes, strict=True)]
    content = {"images": images, "annotations": objects, "categories": categories}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return path
