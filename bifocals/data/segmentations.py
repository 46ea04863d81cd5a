"""Masks of objects: COCO's polygons and run lengths, kept as compressed run lengths, decoded for one image at a time.

A run-length encoding goes down the columns and begins with the zeros. The rules of drawing a polygon are COCO's own
(hotcoco has pycocotools' to the bit), which no common drawing library shares.

Letters: G objects of an image, H and W its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from hotcoco import mask as coco_mask
from jaxtyping import UInt8
from torch import Tensor

from .images import size_text


class MaskProblem(Exception):
    """What was expected of a segmentation, and what came."""

    def __init__(self, what: str, value: str) -> None:
        super().__init__(f"{what}, got {value}")
        self.what, self.value = what, value


class _RunLengths(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: str | list[int]


_DECODER = msgspec.json.Decoder(list[list[float]] | _RunLengths | None)


def run_lengths(text: str, size_hw: tuple[int, int]) -> str:
    """Compressed run lengths of a segmentation as a COCO file writes it; empty where there is none (null, [], "").

    Several polygons are one mask, all of them together. A polygon may reach beyond its image, which cuts it off.
    Raises `MaskProblem`.
    """
    try:
        found = _DECODER.decode(text) if text else None
    except (msgspec.DecodeError, RecursionError):
        raise MaskProblem("expected polygons, or run lengths with size and counts, as segmentation", text) from None
    if not found:
        return ""
    if size_hw == (0, 0):
        raise MaskProblem("expected an image of known size for a segmentation", "no width and height")
    return _of_runs(found, size_hw) if isinstance(found, _RunLengths) else _of_polygons(found, size_hw)


def _of_polygons(polygons: list[list[float]], size_hw: tuple[int, int]) -> str:
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            shown = " ".join(f"{v:.8g}" for v in polygon)
            raise MaskProblem("expected polygons of x and y of 3 points or more", f"{len(polygon)} numbers: {shown}")
        if not all(map(math.isfinite, polygon)):
            raise MaskProblem("expected polygons of finite numbers", str(polygon))
    drawn = coco_mask.frPyObjects(polygons, *size_hw)
    return _text(drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn))


def _of_runs(found: _RunLengths, size_hw: tuple[int, int]) -> str:
    height, width = size_hw
    if found.size != size_hw:
        what = f"expected run lengths of the size [{height}, {width}] of the image ({size_text(size_hw)})"
        raise MaskProblem(what, str(list(found.size)))
    what = f"expected run lengths that sum to the {height * width} pixels of the image"
    if isinstance(found.counts, list):
        if min(found.counts, default=0) < 0 or sum(found.counts) != height * width:
            least = min(found.counts, default=0)
            raise MaskProblem(what, f"a negative one, {least}" if least < 0 else str(sum(found.counts)))
        return _text(coco_mask.frPyObjects({"size": [height, width], "counts": found.counts}, height, width))
    try:
        coco_mask.rle_from_string(found.counts, height, width)
    except ValueError as error:
        raise MaskProblem(what, f"{error}: {found.counts}") from None
    try:
        coco_mask.rle_from_string(found.counts, height * width - 1, 1)
    except ValueError:  # too many for one pixel less: just enough for the image
        return found.counts
    raise MaskProblem(what, f"fewer: {found.counts}")


def decode_masks(counts: Sequence[str], size_hw: tuple[int, int]) -> UInt8[Tensor, "G H W"]:
    """1 where a pixel belongs to the object. counts: compressed run lengths; nothing in them is an empty mask."""
    masks = torch.zeros(len(counts), *size_hw, dtype=torch.uint8)
    drawn = [row for row, text in enumerate(counts) if text]
    if drawn:
        found = coco_mask.decode([{"size": list(size_hw), "counts": counts[row]} for row in drawn])
        masks[drawn] = torch.from_numpy(found).permute(2, 0, 1)
    return masks


def encode_masks(masks: UInt8[Tensor, "G H W"]) -> list[str]:
    """Compressed run lengths of each mask: the inverse of `decode_masks`."""
    found = coco_mask.encode(np.asarray(masks.permute(1, 2, 0).numpy(), order="F"))
    return [_text(rle) for rle in found]


def _text(rle: dict[str, bytes]) -> str:
    return rle["counts"].decode("ascii")
