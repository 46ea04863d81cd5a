"""YOLO txt: one file an image, a line an object: class, then center x, center y, width, height in shares of the image.

A line with more numbers is a polygon (segmentation, oriented boxes): its enclosing box is taken.
"""

from __future__ import annotations

import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from .annotations import Annotations, PackedStrings, pack_annotations
from .checking import check_draft
from .defects import DataError, Defect, count, data_error, one_line
from .draft import Draft, Log, apply_policy
from .file_names import image_files, name_problem, relative_name, stays_inside

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CLASS = re.compile(r"(\d{1,9})(\.0*)?")
_TOLERANCE = 1e-3  # of a share; rounding reaches this far
_LARGEST = 16 * 1024 * 1024  # bytes of a label file or of data.yaml


@dataclass(frozen=True)
class YoloFile:
    """What a data.yaml says. entries: split -> folders or lists of pictures, as written. base: its `path`, if any."""

    names: tuple[str, ...]
    entries: Mapping[str, tuple[str, ...]]
    base: str = ""


def load_yolo(
    path: Path | str,
    split: str = "train",
    *,
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> Annotations:
    """Reads the split of a data.yaml, or of the only one in the folder `path`.

    classes: names in their order, where None the file's. Boxes, records and the headers of the pictures are checked.
    An image without a label file is a background. Raises `DataError`.
    """
    path = Path(path)
    path = find_yaml(path) if path.is_dir() else path
    info = read_yaml(path)
    if split not in info.entries:
        raise DataError(f"{path}: expected a split named {split}, got {', '.join(info.entries) or 'none'}.")
    root = path.parent
    draft = read_yolo(yolo_images(info, split, root), info.names, root=root, classes=classes)
    return apply_policy(check_draft(draft, whole=False, log=log), on_defect, f"{path}, split {split}", log)


def find_yaml(folder: Path) -> Path:
    """The data.yaml of a folder, or its only .yaml. Raises ValueError."""
    found = sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
    named = [p for p in found if p.stem == "data"]
    if len(named or found) != 1:
        raise ValueError(f"{folder}: expected one data.yaml, got {', '.join(p.name for p in found) or 'none'}.")
    return (named or found)[0]


def read_yaml(path: Path) -> YoloFile:
    """Reads class names and splits. Raises `DataError`."""
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: expected at most {_LARGEST} bytes, got {path.stat().st_size}.")
        content = yaml.safe_load(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: expected YAML, got {one_line(str(error) or type(error).__name__)}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping with names and train, got a {type(content).__name__}.")
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{path}: expected names with the keys 0 to {len(names) - 1}, got others.")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str | int | float | bool) for n in names):
        raise DataError(f"{path}: expected names to be a list of class names, got a {type(names).__name__}.")
    names = [str(name) for name in names]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: expected each class name once, got {one_line(str(names))}.")
    number = content.get("nc", len(names))
    if number != len(names):
        raise DataError(f"{path}: expected nc to be the number of names, {len(names)}, got {one_line(str(number))}.")
    entries = {}
    for split in ("train", "val", "valid", "test"):
        value = content.get(split)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and values and all(isinstance(v, str) for v in values):
            entries["val" if split == "valid" else split] = tuple(values)
    base = content.get("path")
    return YoloFile(tuple(names), entries, base if isinstance(base, str) else "")


@dataclass
class YoloImages:
    """The pictures of a split, relative to `root`. complete: they are all the pictures of their folders."""

    root: Path
    files: list[str] = field(default_factory=list)
    complete: bool = True
    defects: list[Defect] = field(default_factory=list)


def yolo_images(info: YoloFile, split: str, root: Path) -> YoloImages:
    """The pictures of the folders and lists that data.yaml names. Raises `DataError` where one is not in `root`.

    `path` and the entries were often written on another machine: what is found from `root` wins, and a leading `../`
    (Roboflow's habit) is taken as `root` itself.
    """
    found = YoloImages(root)
    allowed = (os.path.realpath(root),)
    for entry in info.entries[split]:
        tried = [root / info.base / entry, root / entry, root / re.sub(r"^(\.\.?[/\\])+", "", entry)]
        there = [path for path in tried if path.exists() and stays_inside(path, allowed)]
        if not there:
            raise DataError(f"data.yaml: {split}: expected a folder or list inside {root}, got {one_line(entry)}.")
        path = there[0]
        if path.is_dir():
            below = os.path.relpath(path, root).replace(os.sep, "/")
            found.files += [name if below == "." else f"{below}/{name}" for name in image_files(path)]
            continue
        found.complete = False
        _read_list(path, relative_name(path, root), found)
    return found


def _read_list(path: Path, source: str, found: YoloImages) -> None:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: expected a list of pictures in UTF-8, got {one_line(str(error))}.") from None
    seen = set(found.files)
    for number, line in enumerate(lines, 1):
        name = relative_name(line.strip(), found.root).removeprefix("./")
        if not name:
            continue
        problem = name_problem(name) or ("expected each picture once" if name in seen else None)
        seen.add(name)
        if problem is not None:
            found.defects.append(Defect(source, f"line {number}", problem, name, (len(found.files),)))
        found.files.append(name)


@dataclass
class _Parsed:
    """Columns of the label files read so far."""

    defects: list[Defect]
    owners: array[int] = field(default_factory=lambda: array("q"))
    records: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    polygons: int = 0


def read_yolo(
    images: YoloImages,
    names: Sequence[str],
    *,
    root: Path,
    classes: Sequence[str] | None = None,
    log: Log | None = None,
) -> Draft:
    """Reads the label files of the pictures into a draft, whose boxes are still shares of the image size."""
    parsed = _Parsed(list(images.defects))
    allowed = (os.path.realpath(root),)
    sources = [label_name(file) for file in images.files]
    num_labels = 0
    for index, source in enumerate(sources):
        path = root / source
        if name_problem(images.files[index]) is None and os.path.lexists(path):
            num_labels += 1
            _read_labels(path, source, index, len(names), parsed, allowed)
    if images.files and num_labels == 0:
        what = "expected a label file for some of the pictures"
        raise data_error(
            str(root), [Defect(sources[0], "file", what, f"none for {count(len(sources), 'picture')}", fatal=True)]
        )
    if images.complete:
        parsed.defects += _orphans(sources, root)
    if parsed.polygons and log is not None:
        log(f"data: {count(parsed.polygons, 'polygon')} in label files: their enclosing boxes are taken")

    chosen = tuple(names) if classes is None else tuple(classes)
    label_of = {name: label for label, name in enumerate(chosen)}
    mapping = np.array([label_of.get(name, -1) for name in names], dtype=np.int64)
    file_labels = np.array(parsed.labels, dtype=np.int64)
    labels, owners = mapping[file_labels], np.array(parsed.owners, dtype=np.int64)
    for label in np.unique(file_labels[labels < 0]):
        rows = np.flatnonzero(file_labels == label)
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        what = f"expected one of the {len(chosen)} classes of the training set"
        concerned = tuple(sorted({int(i) for i in owners[rows]}))
        record = f"line {parsed.records[int(rows[0])]}{more}"
        parsed.defects.append(Defect(sources[concerned[0]], record, what, f"{label} {names[label]!r}", concerned))
    keep = labels >= 0
    centers = np.array(parsed.boxes, dtype=np.float64).reshape(-1, 4)[keep]
    annotations, order = pack_annotations(
        root,
        images.files,
        np.arange(len(sources), dtype=np.int64),
        np.zeros((len(sources), 2), dtype=np.int32),
        owners[keep],
        np.concatenate([centers[:, :2] - centers[:, 2:] / 2, centers[:, :2] + centers[:, 2:] / 2], axis=1),
        labels[keep],
        np.zeros(int(keep.sum()), dtype=bool),
        np.full(int(keep.sum()), np.nan),
        chosen,
        range(len(chosen)),
        upright=True,
    )
    records = np.array(parsed.records, dtype=np.int64)[keep][order]
    return Draft(annotations, records, "line", PackedStrings.pack(sources), "cxcywh", allowed, tuple(parsed.defects))


def label_name(image: str) -> str:
    """The label file of a picture: the last folder `images` of its path becomes `labels`."""
    parts = image.split("/")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    parts[-1] = os.path.splitext(parts[-1])[0] + ".txt"
    return "/".join(parts)


def _orphans(sources: Sequence[str], root: Path) -> list[Defect]:
    """Label files in the folders of the split that belong to no picture."""
    known = set(sources)
    defects = []
    for folder in sorted({os.path.dirname(source) for source in sources}):
        entries = sorted(os.listdir(root / folder)) if (root / folder).is_dir() else []
        for file in entries:
            name = f"{folder}/{file}" if folder else file
            if file.endswith(".txt") and name not in known and file not in ("classes.txt", "train.txt", "val.txt"):
                defects.append(Defect(name, "file", "expected a picture with the name of the label file", "none"))
    return defects


def _read_labels(
    path: Path, source: str, index: int, num_classes: int, parsed: _Parsed, allowed: Sequence[str]
) -> None:
    def wrong(record: str, what: str, value: str) -> None:
        parsed.defects.append(Defect(source, record, what, value, (index,)))

    if not stays_inside(path, allowed):
        return wrong("file", "expected a file that stays in the data set", f"a link to {os.path.realpath(path)}")
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            return wrong("file", f"expected at most {_LARGEST} bytes", str(size))
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return wrong("file", "expected text in UTF-8", str(error))
    for number, line in enumerate(text.splitlines(), 1):
        tokens = line.split()
        if not tokens:
            continue
        record = f"line {number}"
        bad = next((token for token in tokens if not _NUMBER.fullmatch(token)), None)
        label = _CLASS.fullmatch(tokens[0])
        if bad is not None:
            comma = " with a decimal point" if "," in bad else ""
            wrong(record, f"expected numbers{comma}", bad)
        elif len(tokens) != 5 and (len(tokens) < 7 or len(tokens) % 2 == 0):
            wrong(record, "expected 5 numbers, or a class and 3 or more points", f"{len(tokens)} numbers")
        elif label is None or int(label[1]) >= num_classes:
            wrong(record, f"expected a class from 0 to {num_classes - 1}", tokens[0])
        else:
            values = np.array([float(token) for token in tokens[1:]])
            out = (values < -_TOLERANCE) | (values > 1 + _TOLERANCE)
            if out.any():
                wrong(record, "expected shares of the image from 0 to 1", tokens[1 + int(out.argmax())])
                continue
            if len(values) > 4:
                parsed.polygons += 1
                low, high = values.reshape(-1, 2).min(axis=0), values.reshape(-1, 2).max(axis=0)
                values = np.concatenate([(low + high) / 2, high - low])
            parsed.owners.append(index)
            parsed.records.append(number)
            parsed.labels.append(int(label[1]))
            parsed.boxes.extend(values.tolist())


def save_yolo(
    annotations: Annotations,
    root: Path | str,
    split: str = "train",
    copy_images: bool = True,
    crowd: Literal["refuse", "drop"] = "refuse",
) -> Path:
    """Writes labels/<split>/, data.yaml and, with `copy_images`, images/<split>/. Returns the data.yaml.

    The format has no word for crowd regions: they are refused, or dropped, which makes them background.
    """
    root = Path(root)
    if crowd == "refuse" and annotations.crowd.any():
        raise ValueError(
            f"save_yolo expected no crowd regions, which YOLO txt cannot mark, got "
            f"{int(annotations.crowd.sum())}; crowd='drop' makes them background."
        )
    # A folder `images` inside of the name would be taken for the one that has a `labels` beside it.
    names = [re.sub(r"^(.*/)?images/", "", name) for name in annotations.files]
    for name, times in Counter(str(Path(name).with_suffix("")) for name in names).items():
        if times > 1:
            raise ValueError(f"save_yolo expected a name of its own for each image, got {name} {times} times.")
    for i, name in enumerate(names):
        file = Path(name)
        label = (root / "labels" / split / file).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        height, width = annotations.sizes_hw[i].tolist()
        lines = []
        for (x1, y1, x2, y2), number, is_crowd in zip(*annotations.objects(i), strict=True):
            if not is_crowd:
                shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{int(number)} " + " ".join(f"{value:.17g}" for value in shares) + "\n")
        label.write_text("".join(lines), encoding="utf-8")
        if copy_images:
            target = root / "images" / split / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(annotations.image_path(i), target)
    path = root / "data.yaml"
    content = {}
    if path.exists():
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content.get("names") != list(annotations.classes):
            raise ValueError(
                f"save_yolo expected {path} to have the classes {list(annotations.classes)}, got "
                f"{content.get('names')}."
            )
    content |= {split: f"images/{split}", "nc": len(annotations.classes), "names": list(annotations.classes)}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
