"""From a mask in the cells of its box to a mask in the pixels of the picture.

Letters: N objects, m cells of a mask's side, H and W pixels of the picture.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F


def paste_masks(
    masks: Float[Tensor, "N m m"], boxes: Float[Tensor, "N 4"], size_hw: tuple[int, int], threshold: float = 0.5
) -> UInt8[Tensor, "N H W"]:
    """1 where the mask is `threshold` or more at the center of a pixel, read bilinearly; 0 outside of its box.

    masks: probabilities in m x m cells that share the box evenly. boxes: xyxy pixels of the picture, not rounded; what
    hangs over the picture is cut off. As in Mask R-CNN (arXiv:1703.06870, section 3.1). A box without a side has no
    pixel.
    """
    height, width = size_hw
    pasted = torch.zeros(len(boxes), height, width, dtype=torch.uint8, device=masks.device)
    for canvas, mask, (x1, y1, x2, y2) in zip(pasted, masks.float(), boxes.tolist(), strict=True):
        if not (x2 > x1 and y2 > y1):
            continue
        # Cells fade to nothing over half a cell beyond their box, which is below a threshold of .5 but not below all.
        rows, columns = _reach(y1, y2, mask.shape[0], height), _reach(x1, x2, mask.shape[1], width)
        if not len(rows) or not len(columns):
            continue
        grid_y = _places(rows, y1, y2, mask)[:, None].expand(-1, len(columns))
        grid_x = _places(columns, x1, x2, mask)[None].expand(len(rows), -1)
        found = F.grid_sample(mask[None, None], torch.stack([grid_x, grid_y], dim=-1)[None], align_corners=False)
        canvas[rows.start : rows.stop, columns.start : columns.stop] = found[0, 0] >= threshold
    return pasted


def _reach(start: float, stop: float, cells: int, limit: int) -> range:
    """The pixels that a side's cells can reach."""
    half = (stop - start) / cells / 2
    return range(max(0, int(start - half)), max(0, min(limit, int(stop + half) + 1)))


def _places(pixels: range, start: float, stop: float, like: Tensor) -> Tensor:
    """The centers of pixels, with the box from -1 to 1."""
    centers = torch.arange(pixels.start, pixels.stop, dtype=like.dtype, device=like.device) + 0.5
    return (centers - start) / (stop - start) * 2 - 1
