"""CrowdHuman's odgt (arXiv:1805.00123): a JSON object a line, each an image with its people.

    {"ID": "273271,c9db000d5146c15", "gtboxes": [{"tag": "person", "fbox": [x, y, w, h], "vbox": [x, y, w, h],
     "extra": {"ignore": 0}}, ...]}

`fbox` is the whole body, also where it is hidden or outside of the image, `vbox` what is seen of it. A box that is to
be ignored, and every one with the tag mask (a group, a statue, a reflection), becomes a crowd region. Pictures are
ID.jpg. Letters: I images, N objects.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float

from .annotations import Annotations, PackedStrings, pack_annotations
from .checking import check_draft
from .defects import DataError, Defect, data_error
from .draft import Draft, Log, apply_policy
from .file_names import name_problem, relative_name
from .json_records import explain

CLASS = "person"
_LONGEST = 16 * 1024 * 1024  # bytes of a line, which is one image
_FARTHEST = 1e6  # pixels; bodies reach beyond the image, but not as far as this


class _Line(msgspec.Struct, gc=False):
    ID: str
    gtboxes: list[msgspec.Raw]


class _Extra(msgspec.Struct, gc=False):
    ignore: Literal[0, 1] | bool | None = None


class _Full(msgspec.Struct, gc=False):
    tag: Literal["person", "mask"]
    box: tuple[float, float, float, float] = msgspec.field(name="fbox")
    extra: _Extra | None = None


class _Visible(msgspec.Struct, gc=False):
    tag: Literal["person", "mask"]
    box: tuple[float, float, float, float] = msgspec.field(name="vbox")
    extra: _Extra | None = None


class _Problem(NamedTuple):
    what: str
    value: str


@dataclass
class _Parsed:
    """Columns of the lines read so far. lines: the number of each image's line. records: of each box in its line."""

    defects: list[Defect] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    owners: array[int] = field(default_factory=lambda: array("q"))
    records: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    crowd: bytearray = field(default_factory=bytearray)


def load_crowdhuman(
    path: Path | str,
    images: Path | str | None = None,
    *,
    box: Literal["full", "visible"] = "full",
    classes: Sequence[str] | None = None,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> Annotations:
    """Reads the odgt file `path`; `images` is the folder of its pictures, where None found beside the file.

    box: the whole body (`fbox`), which may reach beyond the image and is kept as it is, or what is seen (`vbox`).
    classes: names of the classes in their order, where None the only one, person. Boxes, records and the headers of the
    pictures are checked. Raises `DataError`.
    """
    path = Path(path)
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    folder = None if images is None else Path(images)
    draft = read_crowdhuman(path, folder, root=root, box=box, classes=classes, log=log)
    return apply_policy(check_draft(draft, whole=False, log=log), on_defect, str(path), log)


def read_crowdhuman(
    path: Path,
    images: Path | None,
    *,
    root: Path,
    box: Literal["full", "visible"] = "full",
    classes: Sequence[str] | None = None,
    log: Log | None = None,
) -> Draft:
    """Reads a file into a draft, whose boxes may reach beyond the image. `root`: the data set's folder."""
    if box not in ("full", "visible"):
        raise ValueError(f"read_crowdhuman expected box to be full or visible, got {box!r}.")
    shown = relative_name(path, root)
    parsed = _parse(path, shown, _Full if box == "full" else _Visible)
    folder, files, allowed = _find_pictures(path, images, root, parsed, log)

    chosen = (CLASS,) if classes is None else tuple(classes)
    label = chosen.index(CLASS) if CLASS in chosen else -1
    owners = np.array(parsed.owners, dtype=np.int64)
    if label < 0 and len(owners):
        what = f"expected one of the {len(chosen)} classes of the training set"
        concerned = tuple(np.unique(owners).tolist())
        parsed.defects.append(Defect(shown, f"{len(owners)} boxes", what, repr(CLASS), concerned))
    kept = len(owners) if label >= 0 else 0
    boxes = np.array(parsed.boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    annotations, order = pack_annotations(
        folder,
        files,
        np.arange(len(files), dtype=np.int64),
        np.zeros((len(files), 2), dtype=np.int32),
        owners[:kept],
        boxes[:kept],
        np.full(kept, label, dtype=np.int64),
        np.frombuffer(bytes(parsed.crowd), dtype=bool)[:kept],
        np.full(kept, np.nan),
        chosen,
        range(1, len(chosen) + 1),
        upright=True,
    )
    return Draft(
        annotations,
        np.array(parsed.records, dtype=np.int64)[:kept][order],
        "box",
        PackedStrings.pack(f"{shown}:{line}" for line in parsed.lines),
        "fbox" if box == "full" else "vbox",
        allowed,
        tuple(parsed.defects),
        overhang=True,
    )


def _parse(path: Path, shown: str, kind: type[_Full] | type[_Visible]) -> _Parsed:
    """The columns of a file. Raises `DataError` where it is not a file of lines."""
    parsed = _Parsed()
    line_decoder, box_decoder = msgspec.json.Decoder(_Line), msgspec.json.Decoder(kind)
    seen: dict[str, int] = {}
    for number, text in _lines(path, shown):
        decoded = _decode(line_decoder, text)
        if isinstance(decoded, _Problem):  # nothing says which image it is: it is not in the set
            parsed.defects.append(Defect(f"{shown}:{number}", "line", decoded.what, decoded.value))
            continue
        index, name = len(parsed.names), f"{decoded.ID}.jpg" if decoded.ID else ""
        problem = name_problem(name)
        if problem is not None:
            parsed.defects.append(Defect(f"{shown}:{number}", "ID", problem, decoded.ID or "nothing", (index,)))
        elif decoded.ID in seen:
            # The people of one picture are spread over two lines: each would train the others as background.
            what, concerned = "expected each ID once", (seen[decoded.ID], index)
            value = f"{decoded.ID} again, after line {parsed.lines[seen[decoded.ID]]}"
            parsed.defects.append(Defect(f"{shown}:{number}", "ID", what, value, concerned))
        seen.setdefault(decoded.ID, index)
        parsed.names.append(name)
        parsed.lines.append(number)
        for place, raw in enumerate(decoded.gtboxes, 1):
            found = _decode(box_decoder, bytes(raw))
            if not isinstance(found, _Problem) and max(map(abs, found.box)) > _FARTHEST:
                found = _Problem(f"expected pixels from {-_FARTHEST:.0f} to {_FARTHEST:.0f}", str(list(found.box)))
            if isinstance(found, _Problem):
                record = f"box {place} ({name})"
                parsed.defects.append(Defect(f"{shown}:{number}", record, found.what, found.value, (index,)))
                continue
            parsed.owners.append(index)
            parsed.records.append(place)
            parsed.boxes.extend(found.box)
            parsed.crowd.append(found.tag == "mask" or bool(found.extra is not None and found.extra.ignore))
    return parsed


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    """The record, or a `_Problem`."""
    try:
        return decoder.decode(text)
    except RecursionError:
        return _Problem("expected nesting a reader can follow", text[:60].decode("utf-8", "replace"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _Problem(*explain(error, text))


def _lines(path: Path, shown: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, and their numbers from 1. Raises `DataError`."""

    def broken(record: str, what: str, value: str) -> DataError:
        return data_error(shown, [Defect(shown, record, what, value, fatal=True)])

    number = 0
    try:
        with open(path, "rb") as file:
            while text := file.readline(_LONGEST + 1):
                number += 1
                if len(text) > _LONGEST:
                    raise broken(f"line {number}", f"expected at most {_LONGEST} bytes", "more")
                text = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
                if text.strip():
                    yield number, text
    except OSError as error:
        raise broken("file", "expected a readable file", str(error)) from None
    if number == 0:
        raise broken("file", "expected a JSON object a line", "an empty file")


def _find_pictures(
    path: Path, images: Path | None, root: Path, parsed: _Parsed, log: Log | None
) -> tuple[Path, list[str], tuple[str, ...]]:
    """The folder that file names are relative to, the file name of each image, and the folders they may lie in."""
    if images is not None:
        return images, parsed.names, (os.path.realpath(root), os.path.realpath(images))
    shown, split = relative_name(path, root), path.stem.removeprefix("annotation_")
    folders = picture_folders(root, split)
    counts = dict.fromkeys(folders, 0)
    sound = [name_problem(name) is None for name in parsed.names]  # of another the reader has said what is wrong
    places: list[Path | None] = []
    for name, trusted in zip(parsed.names, sound, strict=True):
        place = next((f for f in folders if trusted and os.path.lexists(f / name)), None)
        places.append(place)
        if place is not None:
            counts[place] += 1
    used = [folder for folder in folders if counts[folder]]
    if any(sound) and not used:
        looked = ", ".join(relative_name(folder, root) for folder in folders)
        what = "expected the picture in one of the folders of the set"
        raise DataError(
            f"{shown}: {what}, got none of {sum(sound)} in {looked}; name the folder with --data.images.",
            [Defect(shown, f"ID {parsed.names[0].removesuffix('.jpg')}", what, f"none in {looked}", fatal=True)],
        )
    if log is not None and used:
        listed = ", ".join(f"{counts[folder]} in {relative_name(folder, root)}" for folder in used)
        log(f"data: {path.stem}: pictures of {len(parsed.names)} IDs: {listed}")
    most = max(used, key=counts.__getitem__, default=root)
    files = [
        _below(place or most, root, name) if trusted else name
        for place, name, trusted in zip(places, parsed.names, sound, strict=True)
    ]
    return root, files, (os.path.realpath(root), *(os.path.realpath(folder) for folder in used))


def picture_folders(root: Path, split: str) -> list[Path]:
    """Where the pictures of a split may lie, likely ones first: as released, and as unpacked archive by archive."""
    folders = [root / "Images", root / "images", root / split, root / split / "Images", root / split / "images"]
    folders += [root / "Images" / split, root / "images" / split]
    for archive in sorted(root.glob(f"CrowdHuman_{split}*")):
        folders += [archive / "Images", archive]
    return [folder for folder in [*dict.fromkeys(folders), root] if folder.is_dir()]


def _below(folder: Path, root: Path, name: str) -> str:
    return name if folder == root else f"{folder.relative_to(root).as_posix()}/{name}"


def save_crowdhuman(
    annotations: Annotations,
    root: Path | str,
    split: str = "train",
    copy_images: bool = True,
    visible: Float[np.ndarray, "N 4"] | None = None,
) -> Path:
    """Writes annotation_<split>.odgt and, with `copy_images`, Images/. Returns the odgt file.

    Boxes are written as `fbox`, crowd regions with the tag mask and ignored. visible: what is seen of each object, xyxy
    pixels, written as `vbox`; left out where None. Raises ValueError for other classes than person, and for pictures
    that the format cannot name: it has ID.jpg, and all of them in one folder.
    """
    root = Path(root)
    if annotations.classes != (CLASS,):
        raise ValueError(f"save_crowdhuman expected the class {CLASS} alone, got {list(annotations.classes)}.")
    if visible is not None and visible.shape != annotations.boxes.shape:
        raise ValueError(f"save_crowdhuman expected a visible box for each object, {annotations.boxes.shape}, got "
                         f"{visible.shape}.")
    names: dict[str, str] = {}
    for file in annotations.files:
        if Path(file).suffix != ".jpg" or Path(file).stem in names:
            twin = names.get(Path(file).stem)
            what = f"{file} and {twin}" if twin is not None else file
            raise ValueError(f"save_crowdhuman expected pictures with names of their own that end in .jpg, got {what}.")
        names[Path(file).stem] = file
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"annotation_{split}.odgt"
    with open(path, "w", encoding="utf-8") as out:
        for i, (stem, _) in enumerate(names.items()):
            first = int(annotations.offsets[i])
            records = []
            for k, (corners, _, crowd) in enumerate(zip(*annotations.objects(i), strict=True)):
                record: dict[str, Any] = {"tag": "mask" if crowd else CLASS, "fbox": _xywh(corners)}
                if visible is not None:
                    record["vbox"] = _xywh(visible[first + k])
                records.append({**record, "extra": {"box_id": k, "ignore": int(crowd)}})
            out.write(json.dumps({"ID": stem, "gtboxes": records}, allow_nan=False) + "\n")
    if copy_images:
        (root / "Images").mkdir(exist_ok=True)
        for i, stem in enumerate(names):
            shutil.copyfile(annotations.image_path(i), root / "Images" / f"{stem}.jpg")
    return path


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
