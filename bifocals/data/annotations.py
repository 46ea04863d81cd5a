"""The annotations of a data set as a few packed arrays.

Letters: I images, N objects of all images, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from bifocals.structures import Target

from .images import read_image
from .segmentations import decode_masks


class PackedStrings(Sequence[str]):
    """Strings in one byte array. A list of strings would be copied page by page into every worker as it is read."""

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._data, self._offsets = data, offsets

    @staticmethod
    def pack(strings: Iterable[str]) -> PackedStrings:
        data, offsets = bytearray(), [0]
        for string in strings:
            data += string.encode("utf-8", "surrogatepass")
            offsets.append(len(data))
        return PackedStrings(np.frombuffer(bytes(data), dtype=np.uint8), np.array(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # an index gives a string, a slice a list
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        start, stop = self._offsets[index], self._offsets[index + 1]
        return self._data[start:stop].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: NDArray[np.int64]) -> PackedStrings:
        """The strings `rows` in the order given."""
        view = memoryview(self._data.data)
        data = b"".join([view[self._offsets[i] : self._offsets[i + 1]] for i in rows])
        offsets = np.concatenate([[0], np.cumsum(np.diff(self._offsets)[rows])]).astype(np.int64)
        return PackedStrings(np.frombuffer(data, dtype=np.uint8), offsets)

    def digest(self) -> bytes:
        """Equal for equal strings."""
        return hashlib.sha256(self._offsets.tobytes() + self._data.tobytes()).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedStrings) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)})"


@dataclass(frozen=True, eq=False)
class Annotations:
    """The objects of a set of images; nothing in it grows with use, and it pickles as a handful of arrays.

    root: folder that `files` are relative to. files: names; any sequence of them is packed. image_ids: the file's own.
    sizes_hw: height and width of the image as it is read, 0 where not known yet. offsets: the objects of image i are
    number offsets[i] to offsets[i + 1].
    boxes: xyxy pixels; float64, because 1e-7 px decide whether an IoU is above a threshold. labels: 0..C-1.
    crowd: regions that count neither as object nor as background. area: square pixels, the file's own where it has one
    (of the mask, in COCO). classes: names. category_ids: the file's id of each class, to write COCO results with.
    upright: whether to follow the EXIF orientation where the annotated size cannot tell (see `images.read_image`).
    segmentations: the mask of each object as compressed run lengths at `sizes_hw` (COCO's "counts"), empty for one
    without; None where masks were not asked for. difficult: objects that a detector may find or not (Pascal VOC).
    """

    root: Path
    files: Sequence[str]
    image_ids: NDArray[np.int64]
    sizes_hw: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    upright: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    segmentations: PackedStrings | None = None
    difficult: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        images, objects = len(self.image_ids), len(self.boxes)
        if not isinstance(self.files, PackedStrings):
            object.__setattr__(self, "files", PackedStrings.pack(self.files))
        if len(self.upright) != images:
            object.__setattr__(self, "upright", np.zeros(images, dtype=bool))
        if len(self.difficult) == 0:
            object.__setattr__(self, "difficult", np.zeros(objects, dtype=bool))
        expected = {
            "files": (len(self.files), images),
            "sizes_hw": (self.sizes_hw.shape, (images, 2)),
            "offsets": (self.offsets.shape, (images + 1,)),
            "boxes": (self.boxes.shape, (objects, 4)),
            "labels": (self.labels.shape, (objects,)),
            "crowd": (self.crowd.shape, (objects,)),
            "area": (self.area.shape, (objects,)),
            "difficult": (self.difficult.shape, (objects,)),
            "segmentations": (objects if self.segmentations is None else len(self.segmentations), objects),
            "last offset": (int(self.offsets[-1]), objects),
            "category_ids": (len(self.category_ids), len(self.classes)),
        }
        for name, (came, wanted) in expected.items():
            if came != wanted:
                raise ValueError(
                    f"Annotations expected {name} of {wanted} for {images} images and {objects} boxes, got {came}."
                )

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        """Where image number `index` lies."""
        return self.root / self.files[index]

    def objects(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
        """Boxes, labels and crowd marks of image number `index`: views, not copies."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[rows], self.labels[rows], self.crowd[rows]

    def source(self, index: int) -> tuple[UInt8[Tensor, "3 H W"], Target]:
        """Image number `index` as it is on disk, and its objects, with their masks where there are `segmentations`."""
        size_hw = (int(self.sizes_hw[index, 0]), int(self.sizes_hw[index, 1]))
        image = read_image(self.image_path(index), size_hw, bool(self.upright[index]))
        boxes, labels, crowd = self.objects(index)
        original_hw = (image.shape[-2], image.shape[-1])
        masks = None
        if self.segmentations is not None:
            masks = decode_masks(self.segmentations[self.offsets[index] : self.offsets[index + 1]], original_hw)
        target = Target(
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            crowd=torch.from_numpy(crowd.astype(bool)),
            size_hw=original_hw,
            original_hw=original_hw,
            image_id=int(self.image_ids[index]),
            masks=masks,
        )
        return image, target

    def without_masks(self) -> Annotations:
        """The same objects as boxes alone: what is not decoded costs nothing."""
        return self if self.segmentations is None else replace(self, segmentations=None)

    def image_index(self) -> NDArray[np.int64]:
        """[N] number of the image of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Annotations:
        """The images `indices` in the order given, with their objects."""
        kept = np.asarray(indices, dtype=np.int64).reshape(-1)
        counts = np.diff(self.offsets)[kept]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.repeat(self.offsets[kept] - offsets[:-1], counts) + np.arange(offsets[-1])
        return replace(
            self,
            files=PackedStrings.pack(self.files[int(i)] for i in kept),
            image_ids=self.image_ids[kept],
            sizes_hw=self.sizes_hw[kept],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            upright=self.upright[kept],
            segmentations=None if self.segmentations is None else self.segmentations.take(rows),
            difficult=self.difficult[rows],
        )

    def fingerprint(self) -> str:
        """A digest of file names and annotations, equal for equal data sets on any machine."""
        digest = hashlib.sha256("\0".join([*self.files, *self.classes]).encode("utf-8", "surrogatepass"))
        for record in fields(self):
            value = getattr(self, record.name)
            if record.name == "difficult" and not value.any():
                continue  # so that sets without them keep the digest they always had
            if isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).tobytes())
        if self.segmentations is not None:
            digest.update(self.segmentations.digest())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line: images, objects, crowd regions and backgrounds."""
        backgrounds = int((np.diff(self.offsets) == 0).sum())
        return (
            f"{len(self)} images, {len(self.boxes) - int(self.crowd.sum())} objects of {len(self.classes)} classes, "
            f"{int(self.crowd.sum())} crowd regions, {backgrounds} images without annotation"
        )


def pack_annotations(
    root: Path,
    files: Iterable[str],
    image_ids: NDArray[np.int64],
    sizes_hw: NDArray[np.int32],
    image_index: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    area: NDArray[np.float64],
    classes: Sequence[str],
    category_ids: Sequence[int],
    upright: bool,
) -> tuple[Annotations, NDArray[np.int64]]:
    """Sorts objects by image, keeping their order within one. Also returns where each object came from: [N]."""
    order = np.argsort(image_index, kind="stable")
    offsets = np.zeros(len(image_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(image_index, minlength=len(image_ids)), out=offsets[1:])
    packed = Annotations(
        root=root,
        files=PackedStrings.pack(files),
        image_ids=image_ids,
        sizes_hw=sizes_hw,
        offsets=offsets,
        boxes=boxes[order],
        labels=labels[order],
        crowd=crowd[order],
        area=area[order],
        classes=tuple(classes),
        category_ids=tuple(int(i) for i in category_ids),
        upright=np.full(len(image_ids), upright),
    )
    return packed, order
