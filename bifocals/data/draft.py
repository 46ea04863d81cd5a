"""What a format's reader found, before it is judged.

Letters: I images, N objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from .annotations import Annotations, PackedStrings
from .defects import Defect, data_error

Log = Callable[[str], None]


class Images(Protocol):
    """A set of images of which a part is a set again: `Annotations`, `LabelMaps`."""

    def __len__(self) -> int: ...

    def subset(self, indices: NDArray[np.int64]) -> Self: ...


ImagesT = TypeVar("ImagesT", bound=Images, covariant=True)


class Read(Protocol[ImagesT]):
    """What was read, in whatever kind of draft, and the defects met."""

    @property
    def annotations(self) -> ImagesT: ...

    @property
    def defects(self) -> tuple[Defect, ...]: ...


@dataclass(frozen=True, eq=False)
class Draft:
    """Annotations as written, each object with the record it stands in, and the defects met in reading.

    records: [N] id or number of the record of each object. noun: what the format calls a record.
    sources: [I] the file with the annotations of each image. written: how the format writes a box.
    allowed: real paths of the folders that images may lie in. overhang: boxes may reach beyond the image, or lie
    outside of it, and stay as they are. masks: [N] segmentations as written, where they were asked for.
    """

    annotations: Annotations
    records: NDArray[np.int64]
    noun: str
    sources: PackedStrings | str
    written: Literal["xywh", "fbox", "vbox", "xyxy", "cxcywh"]
    allowed: tuple[str, ...]
    defects: tuple[Defect, ...] = ()
    overhang: bool = False
    masks: PackedStrings | None = None

    @property
    def relative(self) -> bool:
        """Whether boxes are shares of the image size, not pixels yet."""
        return self.written == "cxcywh"

    def source(self, image: int) -> str:
        return self.sources if isinstance(self.sources, str) else self.sources[image]

    def box_text(self, box: NDArray[np.float64], size_hw: tuple[int, int]) -> str:
        """A box in pixels as the file writes it."""
        x1, y1, x2, y2 = (float(v) for v in box)
        if self.written == "xyxy":
            return f"xmin {x1:.8g} ymin {y1:.8g} xmax {x2:.8g} ymax {y2:.8g}"
        if self.written in ("xywh", "fbox", "vbox"):
            name = "bbox" if self.written == "xywh" else self.written
            return f"{name} [{x1:.8g}, {y1:.8g}, {x2 - x1:.8g}, {y2 - y1:.8g}]"
        height, width = size_hw
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        return " ".join(f"{v:.8g}" for v in shares)


def apply_policy(
    draft: Read[ImagesT], on_defect: Literal["fail", "skip"], subject: str, log: Log | None = print
) -> ImagesT:
    """The annotations, where nothing is wrong or every image concerned can be left out whole.

    Raises `DataError` under `fail` with any defect, under `skip` with one that leaves nothing to trust.
    """
    if not draft.defects:
        return draft.annotations
    if on_defect == "fail":
        raise data_error(subject, draft.defects, "--data.on-defect skip leaves the images concerned out.")
    fatal = [defect for defect in draft.defects if defect.fatal]
    if fatal:
        raise data_error(subject, fatal, "Leaving images out does not help.")
    left_out = sorted({image for defect in draft.defects for image in defect.images})
    kept = np.setdiff1d(np.arange(len(draft.annotations)), left_out)
    if len(kept) == 0 and len(draft.annotations) > 0:
        raise data_error(subject, draft.defects, "Every image is concerned; none is left.")
    if log is not None:
        for defect in draft.defects:
            log(f"data: {defect}")
        log(f"data: {subject}: left out {len(left_out)} of {len(draft.annotations)} images for the defects above")
    return draft.annotations.subset(kept)


def with_defects(draft: Draft, defects: Sequence[Defect]) -> Draft:
    return replace(draft, defects=(*draft.defects, *defects))
