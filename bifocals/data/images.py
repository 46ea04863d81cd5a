"""Reading pictures: whatever is in the file becomes RGB bytes, and what is no sound picture is named.

Pillow's limit against decompression bombs stays as it is, and its warning band counts as an error here.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .defects import DataError, one_line

# Only these decoders run on a user's files: others (EPS, for one) start programs or are seldom fuzzed.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_PIXELS = 1024 * 1024 * 1024 // 4 // 3  # Pillow's own default, kept also where another library has raised it
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageProblem(Exception):
    """What was expected of an image file, and what came."""

    def __init__(self, what: str, value: str) -> None:
        super().__init__(f"{what}, got {value}")
        self.what, self.value = what, value


@dataclass(frozen=True)
class ImageFacts:
    """stored_hw: pixels as stored. orientation: EXIF's, 1 to 8; 5 to 8 swap height and width."""

    stored_hw: tuple[int, int]
    orientation: int

    @property
    def upright_hw(self) -> tuple[int, int]:
        return self.stored_hw[::-1] if self.orientation >= 5 else self.stored_hw

    @property
    def size_settles(self) -> bool:
        """Whether the annotated size can tell if the annotator saw the picture turned."""
        return self.orientation == 1 or self.upright_hw != self.stored_hw


def orientation_to_apply(facts: ImageFacts, annotated_hw: tuple[int, int], upright: bool) -> int | None:
    """The EXIF orientation that makes the picture look as the annotator saw it; None where no turn gives the size.

    Annotation tools disagree on EXIF. The annotated size tells: the stored size means not turned, the swapped one
    turned. `upright` decides where both are equal (a half turn, a square); without a size (0, 0) it is turned.
    """
    if annotated_hw == (0, 0):
        return facts.orientation
    if not facts.size_settles:
        if annotated_hw != facts.stored_hw:
            return None
        return facts.orientation if upright else 1
    if annotated_hw == facts.stored_hw:
        return 1
    return facts.orientation if annotated_hw == facts.upright_hw else None


def inspect_image(path: Path | str, whole: bool = True) -> ImageFacts:
    """Size and orientation from the header. `whole` also makes sure that the file can be decoded to its end.

    A JPEG is decoded at an eighth of its size, a quarter to three quarters of the full time: that finds all that
    training would stumble over, while its end marker alone would miss broken streams. Of a PNG the checksums are
    compared up to the end chunk. Other formats are decoded. Raises `ImageProblem`.
    """
    require_file(path)
    try:
        with open_picture(path) as image:
            facts = ImageFacts((image.height, image.width), _orientation(image))
            _require_readable_mode(image)
            if whole and image.format == "PNG":
                image.verify()
            elif whole:
                image.draft("L", (1, 1))  # JPEG alone knows drafts
                image.load()
            return facts
    except ImageProblem:
        raise
    except Exception as error:  # Pillow raises nearly anything on broken files: SyntaxError, struct.error, ...
        raise ImageProblem("expected a complete, readable picture", reason(error)) from None


def read_image(
    path: Path | str, annotated_hw: tuple[int, int] = (0, 0), upright: bool = False
) -> UInt8[Tensor, "3 H W"]:
    """The picture as RGB bytes, turned as `orientation_to_apply` says.

    Gray, palette, CMYK and 16-bit pictures are converted (16 bits keep their high byte), alpha is dropped.
    The tensor keeps Pillow's pixel-interleaved memory, which torchvision resizes fastest.
    Raises `DataError` where the file is no sound picture or has another size.
    """
    try:
        require_file(path)
        with open_picture(path) as image:
            facts = ImageFacts((image.height, image.width), _orientation(image))
            orientation = orientation_to_apply(facts, annotated_hw, upright)
            if orientation is None:
                raise ImageProblem(_size_expected(annotated_hw), size_text(facts.stored_hw))
            _require_readable_mode(image)
            rgb = _to_rgb(image)
            if orientation != 1:
                rgb = rgb.transpose(_TURNS[orientation])
            return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)
    except ImageProblem as problem:
        raise DataError(f"{one_line(str(path))}: {one_line(str(problem))}") from None
    except Exception as error:
        text = f"expected a complete, readable picture, got {reason(error)}"
        raise DataError(f"{one_line(str(path))}: {text}") from None


def size_text(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]}"


def _size_expected(size_hw: tuple[int, int]) -> str:
    return f"expected the annotated size {size_text(size_hw)}"


def require_file(path: Path | str) -> None:
    """Raises `ImageProblem` where `path` is no file with something in it."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise ImageProblem("expected an image file", "no such file" if missing else reason(error)) from None
    if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        raise ImageProblem("expected an image file", "a folder" if stat.S_ISDIR(facts.st_mode) else "a special file")
    if facts.st_size == 0:
        raise ImageProblem("expected an image file", "0 bytes")


def open_picture(path: Path | str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The file's header read by one of Pillow's decoders `formats`, and no more. Raises `ImageProblem`."""
    limit = min(Image.MAX_IMAGE_PIXELS or _PIXELS, _PIXELS)
    try:
        image = Image.open(path, formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageProblem(f"expected at most {limit} pixels", reason(error)) from None
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            start = file.read(48)
        kind = "HTML" if start.lstrip().lower().startswith((b"<!doctype html", b"<html")) else "a file starting with"
        raise ImageProblem(f"expected a picture ({', '.join(formats)})", f"{kind} {start[:24]!r}") from None
    except PermissionError as error:
        raise ImageProblem("expected a readable file", reason(error)) from None
    if image.width * image.height > limit:
        image.close()
        raise ImageProblem(f"expected at most {limit} pixels", f"{image.width}x{image.height} (a decompression bomb?)")
    return image


def _require_readable_mode(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageProblem("expected 8 or 16 bits a channel", f"32 bits (Pillow mode {image.mode})")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1  # asking Pillow would decode the picture, in search of a chunk at its end
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BITS:  # Pillow would clip all above 255 to white
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the direct way warns
    return image.convert("RGB")


def reason(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)
    return one_line(text or type(error).__name__, 120)
