"""Images with a class for each of their pixels, as a few packed arrays.

Letters: I images, C classes, K colors, H and W pixels of an image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from bifocals.structures import IGNORED, Target

from .annotations import PackedStrings
from .defects import DataError, count, one_line
from .images import read_image, size_text
from .label_png import read_labels

Color = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Pictures and their label maps on disk; nothing in it grows with use, and it pickles as a handful of arrays.

    root: folder that `files`, the pictures, and `label_files`, their label PNGs, are relative to; any sequence of
    names is packed. sizes_hw: height and width of picture and labels, 0 where not known yet.
    classes: names. category_ids: the number that the files store for each class, to write results with.
    mapping: the class of each stored number, 255 for what does not count.
    label_kind: index and palette: pixels store numbers; rgb: they store colors, and their number is the color's place
    in `colors` [K 3]. palette: the color of each class, to draw with; None where the set has none.
    upright: whether to follow the EXIF orientation of a picture where its size cannot tell.
    """

    root: Path
    files: Sequence[str]
    label_files: Sequence[str]
    image_ids: NDArray[np.int64]
    sizes_hw: NDArray[np.int32]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mapping: NDArray[np.uint8]
    label_kind: Literal["index", "palette", "rgb"] = "index"
    palette: tuple[Color, ...] | None = None
    colors: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), dtype=np.uint8))
    upright: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        images = len(self.image_ids)
        for name in ("files", "label_files"):
            if not isinstance(getattr(self, name), PackedStrings):
                object.__setattr__(self, name, PackedStrings.pack(getattr(self, name)))
        if len(self.upright) != images:
            object.__setattr__(self, "upright", np.zeros(images, dtype=bool))
        expected = {
            "files": (len(self.files), images),
            "label_files": (len(self.label_files), images),
            "sizes_hw": (self.sizes_hw.shape, (images, 2)),
            "category_ids": (len(self.category_ids), len(self.classes)),
            "mapping": (self.mapping.shape, (256,)),
            "palette": (len(self.classes if self.palette is None else self.palette), len(self.classes)),
            "colors": (len(self.colors) > 0, self.label_kind == "rgb"),
        }
        for name, (came, wanted) in expected.items():
            if came != wanted:
                raise ValueError(f"LabelMaps expected {name} of {wanted} for {images} images of "
                                 f"{len(self.classes)} classes, got {came}.")  # fmt: skip
        if len(self.classes) >= IGNORED:
            raise ValueError(f"LabelMaps expected at most {IGNORED - 1} classes, got {len(self.classes)}.")
        counted = self.mapping[self.mapping != IGNORED]
        if len(counted) and int(counted.max()) >= len(self.classes):
            raise ValueError(f"LabelMaps expected mapping to give classes below {len(self.classes)} or {IGNORED}, got "
                             f"{int(counted.max())}.")  # fmt: skip

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        """Where image number `index` lies."""
        return self.root / self.files[index]

    def label_path(self, index: int) -> Path:
        """Where the label map of image number `index` lies."""
        return self.root / self.label_files[index]

    def labels(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The class of each pixel of image number `index`, 255 where it does not count. Raises `DataError`."""
        return read_labels(self.label_path(index), self.mapping, self.colors)

    def source(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], Target]:
        """Image number `index` as it is on disk, and a target without boxes whose `semantic` has the image's size.

        Raises `DataError` where a file is unsound or the two sizes differ.
        """
        semantic = self.labels(index)
        size_hw = (semantic.shape[0], semantic.shape[1])
        known = (int(self.sizes_hw[index, 0]), int(self.sizes_hw[index, 1]))
        if known not in ((0, 0), size_hw):
            path = one_line(str(self.label_path(index)))
            raise DataError(f"{path}: expected the size of the set, {size_text(known)}, got {size_text(size_hw)}.")
        image = read_image(self.image_path(index), size_hw, bool(self.upright[index]))
        target = Target(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            crowd=torch.zeros(0, dtype=torch.bool),
            size_hw=size_hw,
            original_hw=size_hw,
            image_id=int(self.image_ids[index]),
            semantic=torch.from_numpy(semantic),
        )
        return image, target

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelMaps:
        """The images `indices` in the order given, with their labels."""
        kept = np.asarray(indices, dtype=np.int64).reshape(-1)
        return replace(
            self,
            files=PackedStrings.pack(self.files[int(i)] for i in kept),
            label_files=PackedStrings.pack(self.label_files[int(i)] for i in kept),
            image_ids=self.image_ids[kept],
            sizes_hw=self.sizes_hw[kept],
            upright=self.upright[kept],
        )

    def fingerprint(self) -> str:
        """A digest of names, classes and the bytes of all label files, equal for equal data sets on any machine."""
        names = "\0".join([*self.files, *self.label_files, *self.classes])
        digest = hashlib.sha256(names.encode("utf-8", "surrogatepass"))
        for record in fields(self):
            value = getattr(self, record.name)
            if isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).tobytes())
        for index in range(len(self)):
            digest.update(hashlib.sha256(self.label_path(index).read_bytes()).digest())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line: images, their size, classes and the kind of the labels."""
        sizes = [(int(height), int(width)) for height, width in np.unique(self.sizes_hw, axis=0)]
        shown = f"of {size_text(sizes[0])}" if len(sizes) == 1 else f"of {len(sizes)} sizes"
        kind = {"index": "index PNGs", "palette": "palette PNGs", "rgb": "PNGs of colors"}[self.label_kind]
        return f"{count(len(self), 'image')} {shown}, {len(self.classes)} classes, labels in {kind}"


@dataclass(frozen=True, eq=False)
class ClassFrequencies:
    """How many pixels each class has over a set. pixels: [C]. images: [C] in how many images it occurs. ignored:
    pixels that do not count."""

    classes: tuple[str, ...]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int

    @property
    def shares(self) -> Float64[np.ndarray, "C"]:
        """Of all pixels that count, 0 where there are none."""
        return np.asarray(self.pixels / max(1, int(self.pixels.sum())))


def class_frequencies(maps: LabelMaps) -> ClassFrequencies:
    """Reads every label map once and counts, one map in memory at a time."""
    pixels, images = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    for index in range(len(maps)):
        counts = np.bincount(maps.labels(index).ravel(), minlength=256)
        pixels += counts
        images += counts > 0
    number = len(maps.classes)
    return ClassFrequencies(maps.classes, pixels[:number], images[:number], int(pixels[IGNORED]))
