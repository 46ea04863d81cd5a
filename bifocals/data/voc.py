"""Pascal VOC XML: one file an image, lists of names for the splits.

Letters: N objects, C classes.
"""

from __future__ import annotations

import os
import re
import shutil
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement, indent

import defusedxml
import numpy as np
from defusedxml import ElementTree as DefusedTree

from .annotations import Annotations, PackedStrings, pack_annotations
from .checking import check_draft
from .defects import DataError, Defect
from .draft import Draft, Log, apply_policy
from .file_names import image_files, name_problem, relative_name, stays_inside

_LARGEST = 16 * 1024 * 1024  # bytes of one XML file
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf(inity)?)", re.IGNORECASE)
_FROM_2007 = re.compile(r"2007_\d{6}")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Parsed:
    """Columns of the files read so far; `names` holds the class of each object."""

    defects: list[Defect] = field(default_factory=list)
    owners: array[int] = field(default_factory=lambda: array("q"))
    records: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    names: list[str] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)


def load_voc(
    root: Path | str,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    on_defect: Literal["fail", "skip"] = "fail",
    log: Log | None = None,
) -> Annotations:
    """Reads Annotations/*.xml with JPEGImages/*; `split` names a list in ImageSets/Main, None takes all files.

    classes: names in their order, where None those of the split, sorted. one_based: xmin and ymin count from 1, as in
    the original VOC; else coordinates are used as they are. Objects marked difficult become crowd as well.
    Boxes, records and the headers of the pictures are checked. Raises `DataError`.
    """
    root = Path(root)
    names = None if split is None else root / "ImageSets" / "Main" / f"{split}.txt"
    draft = read_voc(root / "Annotations", images_folder(root), names, root=root, classes=classes, one_based=one_based)
    subject = f"{root}" if split is None else f"{root}, split {split}"
    return apply_policy(check_draft(draft, whole=False, log=log), on_defect, subject, log)


def images_folder(root: Path) -> Path:
    """JPEGImages or images below `root`, or the folder of the XML files."""
    for name in ("JPEGImages", "images", "Images"):
        if (root / name).is_dir():
            return root / name
    return root / "Annotations" if (root / "Annotations").is_dir() else root


def read_voc(
    folder: Path,
    images: Path,
    names_file: Path | None,
    *,
    root: Path,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
) -> Draft:
    """Reads the XML files in `folder` of the names in `names_file`, or all of them, into a draft."""
    parsed = _Parsed()
    allowed = (os.path.realpath(root), os.path.realpath(images))
    by_stem: dict[str, list[str]] = {}
    for file in image_files(images):
        by_stem.setdefault(os.path.splitext(file)[0], []).append(file)
    files: list[str] = []
    sources: list[str] = []
    sizes: list[tuple[int, int]] = []
    for name, defect in listed_names(folder, names_file, root):
        index = len(files)
        xml = folder / f"{name}.xml"
        source = relative_name(xml, root)
        tree: Element | None = None
        if defect is None:
            tree, defect = _tree(xml, source, allowed)
        if defect is not None:
            parsed.defects.append(Defect(defect.file, defect.record, defect.what, defect.value, (index,)))
        size = (0, 0)
        file = by_stem.get(name, [f"{name}.jpg"])[0]
        if tree is not None:
            size = _size(tree, source, index, parsed)
            file = _image_file(tree, name, by_stem.get(name, []), source, index, parsed)
            _objects(tree, source, index, parsed, one_based)
        files.append(file)
        sources.append(source)
        sizes.append(size)

    chosen = tuple(sorted(set(parsed.names))) if classes is None else tuple(classes)
    label_of = {name: label for label, name in enumerate(chosen)}
    labels = np.array([label_of.get(name, -1) for name in parsed.names], dtype=np.int64)
    owners = np.array(parsed.owners, dtype=np.int64)
    for name in sorted(set(parsed.names) - set(chosen)):
        rows = [row for row, other in enumerate(parsed.names) if other == name]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        what = f"expected one of the {len(chosen)} classes of the training set"
        record = f"object {parsed.records[rows[0]]}{more}"
        concerned = tuple(sorted({int(i) for i in owners[rows]}))
        parsed.defects.append(Defect(sources[concerned[0]], record, what, repr(name), concerned))
    keep = labels >= 0
    annotations, order = pack_annotations(
        images,
        files,
        np.arange(len(files), dtype=np.int64),
        np.array(sizes, dtype=np.int32).reshape(-1, 2),
        owners[keep],
        np.array(parsed.boxes, dtype=np.float64).reshape(-1, 4)[keep],
        labels[keep],
        np.array(parsed.crowd, dtype=bool)[keep],
        np.full(int(keep.sum()), np.nan),
        chosen,
        range(1, len(chosen) + 1),
        upright=False,
    )
    annotations = replace(annotations, difficult=annotations.crowd)
    records = np.array(parsed.records, dtype=np.int64)[keep][order]
    return Draft(annotations, records, "object", PackedStrings.pack(sources), "xyxy", allowed, tuple(parsed.defects))


def pictures_of_2007(draft: Draft) -> list[Defect]:
    """The pictures of VOC 2007 that VOC 2012 holds for segmentation under their old year, as one line.

    632 of them are in its lists for that, 210 of which are in the test set of VOC 2007; its lists for detection have
    none. Other sets number their pictures in other ways.
    """
    rows = [i for i, name in enumerate(draft.annotations.files) if _FROM_2007.fullmatch(os.path.splitext(name)[0])]
    if not rows:
        return []
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    what = "expected no picture of VOC 2007 in training, whose test set has some (--data.allow-2007 takes them)"
    return [Defect(draft.source(rows[0]), "image", what, f"{draft.annotations.files[rows[0]]}{more}", tuple(rows))]


def voc_classes(folder: Path, names_file: Path | None, root: Path) -> tuple[str, ...]:
    """The class names that occur in a split, sorted. Files that cannot be read are passed over."""
    found: set[str] = set()
    allowed = (os.path.realpath(root),)
    for name, defect in listed_names(folder, names_file, root):
        tree = None if defect is not None else _tree(folder / f"{name}.xml", "", allowed)[0]
        if tree is not None:
            found.update((o.findtext("name") or "").strip() for o in tree.iter("object"))
    return tuple(sorted(found - {""}))


def save_voc(annotations: Annotations, root: Path | str, split: str = "train", copy_images: bool = True) -> Path:
    """Writes Annotations/, ImageSets/Main/<split>.txt and, with `copy_images`, JPEGImages/. Crowd becomes difficult.

    Raises ValueError where two pictures of different folders would get the same name.
    """
    root = Path(root)
    lists, xmls, pictures = root / "ImageSets" / "Main", root / "Annotations", root / "JPEGImages"
    for folder in (lists, xmls, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    stems: dict[str, str] = {}
    for i in range(len(annotations)):
        file = Path(annotations.files[i])
        if file.stem in stems:
            raise ValueError(f"save_voc expected a name of its own for each image, got {file} and {stems[file.stem]}.")
        stems[file.stem] = str(file)
        top = Element("annotation")
        SubElement(top, "folder").text = "JPEGImages"
        SubElement(top, "filename").text = file.name
        size = SubElement(top, "size")
        height, width = annotations.sizes_hw[i].tolist()
        for tag, value in (("width", width), ("height", height), ("depth", 3)):
            SubElement(size, tag).text = str(value)
        rows = slice(annotations.offsets[i], annotations.offsets[i + 1])
        for box, label, crowd, difficult in zip(*annotations.objects(i), annotations.difficult[rows], strict=True):
            item = SubElement(top, "object")
            SubElement(item, "name").text = annotations.classes[int(label)]
            SubElement(item, "difficult").text = str(int(crowd or difficult))
            corners = SubElement(item, "bndbox")
            for tag, value in zip(_CORNERS, box.tolist(), strict=True):
                SubElement(corners, tag).text = f"{value:.17g}"
        indent(top)
        ElementTree(top).write(xmls / f"{file.stem}.xml", encoding="utf-8")
        if copy_images:
            shutil.copyfile(annotations.image_path(i), pictures / file.name)
    (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return root


def listed_names(folder: Path, names_file: Path | None, root: Path) -> list[tuple[str, Defect | None]]:
    """The names of a split, each with what is wrong with it. Raises `DataError` where the list cannot be read."""
    if names_file is None:
        return [(Path(name).stem, None) for name in sorted(os.listdir(folder)) if name.lower().endswith(".xml")]
    source = relative_name(names_file, root)
    try:
        lines = names_file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: expected a list of names in UTF-8, got {error}.") from None
    names: list[tuple[str, Defect | None]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        # Lists of one class carry a mark behind the name: 1 present, 0 difficult, -1 absent.
        name = re.sub(r"\s+(-1|0|1)$", "", line.strip())
        if not name:
            continue
        defect = None
        problem = name_problem(name)
        if problem is not None:
            defect = Defect(source, f"line {number}", problem, name)
        elif name in seen:
            defect = Defect(source, f"line {number}", "expected each name once", f"{name} again")
        seen.add(name)
        names.append((name, defect))
    return names


def _tree(xml: Path, source: str, allowed: Sequence[str]) -> tuple[Element | None, Defect | None]:
    """The parsed file, or what is wrong with it."""
    if not stays_inside(xml, allowed):
        return None, Defect(source, "file", "expected a file that stays in the data set", f"a link to {xml.resolve()}")
    try:
        size = xml.stat().st_size
        if size > _LARGEST:
            return None, Defect(source, "file", f"expected at most {_LARGEST} bytes", str(size))
        tree = DefusedTree.fromstring(xml.read_bytes(), forbid_dtd=True)
    except defusedxml.DTDForbidden as error:
        return None, Defect(source, "file", "expected XML without a DTD", f"<!DOCTYPE {error.name}>")
    except FileNotFoundError:
        return None, Defect(source, "file", "expected an XML file of the image", "no such file")
    except (defusedxml.DefusedXmlException, ParseError, OSError, LookupError, ValueError) as error:
        return None, Defect(source, "file", "expected readable XML", str(error))
    if tree.tag != "annotation":
        return None, Defect(source, "file", "expected <annotation> as top element", f"<{tree.tag}>")
    return tree, None


def _number(element: Element | None, tag: str) -> tuple[float | None, str]:
    """The number in a child element, None where it is none, and its text."""
    text = ((element.findtext(tag) if element is not None else None) or "").strip()
    return (float(text) if _NUMBER.fullmatch(text) else None), text or "nothing"


def _size(tree: Element, source: str, index: int, parsed: _Parsed) -> tuple[int, int]:
    element = tree.find("size")
    if element is None:
        return (0, 0)
    (height, height_text), (width, width_text) = _number(element, "height"), _number(element, "width")
    if height == 0 and width == 0:  # some tools write this for "not known"
        return (0, 0)
    if height is None or width is None or not (0 < height < 2**31 and 0 < width < 2**31):
        value = f"width {width_text} height {height_text}"
        parsed.defects.append(Defect(source, "size", "expected a positive width and height", value, (index,)))
        return (0, 0)
    return int(height), int(width)


def _image_file(tree: Element, name: str, same_stem: Sequence[str], source: str, index: int, parsed: _Parsed) -> str:
    """The picture of an XML file: the one with its name; the <filename> decides only where there is not just one."""
    if len(same_stem) == 1:
        return same_stem[0]
    written = (tree.findtext("filename") or "").strip()
    problem = name_problem(written) if written else None
    if problem is not None:
        parsed.defects.append(Defect(source, "filename", problem, written, (index,)))
        return written
    if same_stem and written not in same_stem:
        what = f"expected one picture named {name}"
        parsed.defects.append(Defect(source, "filename", what, " and ".join(same_stem), (index,)))
        return same_stem[0]
    return written if os.path.splitext(written)[1] else f"{name}.jpg"


def _objects(tree: Element, source: str, index: int, parsed: _Parsed, one_based: bool) -> None:
    for number, item in enumerate(tree.findall("object"), 1):
        name = (item.findtext("name") or "").strip()
        if not name:
            parsed.defects.append(Defect(source, f"object {number}", "expected a class name", "nothing", (index,)))
            continue
        corners = []
        for tag in _CORNERS:
            value, text = _number(item.find("bndbox"), tag)
            if value is None:
                record = f"object {number} ({name})"
                parsed.defects.append(Defect(source, record, f"expected a number as {tag}", text, (index,)))
                break
            corners.append(value - 1 if one_based and tag in ("xmin", "ymin") else value)
        else:
            parsed.owners.append(index)
            parsed.records.append(number)
            parsed.boxes.extend(corners)
            parsed.names.append(name)
            parsed.crowd.append((item.findtext("difficult") or "").strip() in ("1", "true", "True"))
