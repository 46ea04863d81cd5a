"""Reading label PNGs: each pixel's stored number, untouched by what picture libraries do for the eye.

Letters: H and W pixels, K colors of a class list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from bifocals.structures import IGNORED

from .defects import DataError, one_line
from .images import ImageProblem, open_picture, reason, require_file

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS: dict[int, Literal["index", "palette", "rgb", "gray and alpha"]] = {
    0: "index",
    2: "rgb",
    3: "palette",
    4: "gray and alpha",
    6: "rgb",
}
_STRETCH = {1: 255, 2: 85, 4: 17}  # what Pillow multiplies gray of few bits by, to show it from black to white


@dataclass(frozen=True)
class LabelHead:
    """The header of a label PNG. bits: of a channel, as stored."""

    size_hw: tuple[int, int]
    kind: Literal["index", "palette", "rgb", "gray and alpha"]
    bits: int


def read_head(path: Path | str) -> LabelHead:
    """Size and kind of a label map, without decoding it. Raises `ImageProblem` where it is no PNG."""
    try:
        require_file(path)
        with open(path, "rb") as file:
            start = file.read(33)
    except OSError as error:
        raise ImageProblem("expected a readable file", reason(error)) from None
    if start[:8] != _SIGNATURE or len(start) < 33 or start[12:16] != b"IHDR":
        lossy = start[:2] == b"\xff\xd8"
        came = "a JPEG, which does not keep label values" if lossy else f"a file starting with {start[:16]!r}"
        raise ImageProblem("expected a label map as PNG", came)
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    bits, kind = start[24], _KINDS.get(start[25])
    if kind is None:
        raise ImageProblem("expected a label map as PNG", f"PNG color type {start[25]}")
    return LabelHead((height, width), kind, bits)


def require_kind(head: LabelHead, colored: bool) -> None:
    """Refuses what would not be read as the annotator meant it. colored: classes are colors, else stored numbers.

    Raises `ImageProblem`.
    """
    if head.bits == 16:
        raise ImageProblem("expected a label map with 8 bits a channel", "16 bits, as instance maps and depth have")
    if colored and head.kind not in ("rgb", "palette"):
        raise ImageProblem("expected a label map in the colors of the classes", f"one channel ({head.kind})")
    if not colored and head.kind not in ("index", "palette"):
        raise ImageProblem("expected a label map with the number of a class in each pixel", f"{head.kind} pixels")


def decode(path: Path | str, checksums: bool = False) -> Image.Image:
    """The decoded PNG as Pillow has it; `checksums` finds the rare bit error that decodes. Raises `ImageProblem`."""
    image = None
    try:
        if checksums:
            with open_picture(path, ("PNG",)) as image:
                image.verify()
        image = open_picture(path, ("PNG",))
        image.load()
    except ImageProblem:
        raise
    except Exception as error:  # Pillow raises nearly anything on broken files
        if image is not None:
            image.close()
        raise ImageProblem("expected a complete, readable label map", reason(error)) from None
    return image


def stored_values(image: Image.Image, head: LabelHead, colors: UInt8[np.ndarray, "K 3"]) -> UInt8[np.ndarray, "H W"]:
    """The stored number of each pixel; with K > 0 `colors`, the place of its color in them, 255 for any other."""
    if len(colors):
        return _places(image, colors)
    if head.kind == "index" and head.bits < 8:  # Pillow shows such gray from black to white; a palette it leaves
        return np.asarray(image.convert("L")) // np.uint8(_STRETCH[head.bits])
    return np.asarray(image)


def palette_of(image: Image.Image) -> UInt8[np.ndarray, "256 3"]:
    """The colors of a palette PNG, black where it names none."""
    flat = image.getpalette("RGB") or []
    return np.array((flat + [0] * 768)[:768], dtype=np.uint8).reshape(256, 3)


def read_labels(
    path: Path | str, mapping: UInt8[np.ndarray, "256"], colors: UInt8[np.ndarray, "K 3"]
) -> UInt8[np.ndarray, "H W"]:
    """The class of each pixel: `mapping` of its stored number, or of the place of its color. Raises `DataError`."""
    try:
        head = read_head(path)
        require_kind(head, len(colors) > 0)
        image = decode(path)
    except ImageProblem as problem:
        raise DataError(f"{one_line(str(path))}: {one_line(str(problem))}") from None
    with image:
        return mapping.take(stored_values(image, head, colors))


def color_codes(colors: UInt8[np.ndarray, "... 3"]) -> NDArray[np.int32]:
    """One number for each color: red, green and blue side by side."""
    wide = colors.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _places(image: Image.Image, colors: UInt8[np.ndarray, "K 3"]) -> UInt8[np.ndarray, "H W"]:
    if image.mode == "P":
        return _place_of(color_codes(palette_of(image)), colors)[np.asarray(image)]
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return _place_of(color_codes(pixels), colors)


def _place_of(codes: NDArray[np.int32], colors: UInt8[np.ndarray, "K 3"]) -> NDArray[np.uint8]:
    known = color_codes(colors)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    found = order[place].astype(np.uint8)
    return np.where(known[order][place] == codes, found, np.uint8(IGNORED))
