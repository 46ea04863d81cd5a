"""Features of regions of interest (RoIs): each is pooled from the pyramid level that fits its size.

Letters: R RoIs of a batch, C channels, s cells of a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.ops import roi_align

from bifocals.structures import area

FINEST = 56
"""Pixels of the side of the squares that start the second level (arXiv:1612.03144, Eq. 1: 224 / 2^(4 - 2))."""


def roi_levels(rois: Float[Tensor, "R 4"], num_levels: int) -> Int64[Tensor, "R"]:
    """Number of the level of each RoI: floor(log2(sqrt(area) / 56)), within the levels there are.

    A side of 56 * 2^k pixels belongs to the larger level, whatever rounding makes of it: 1e-6 is added.
    """
    octave = torch.log2(area(rois).sqrt() / FINEST + 1e-6).floor()
    return octave.clamp(0, num_levels - 1).long()


class RoIAlign(nn.Module):
    """Pyramid levels and RoIs -> [R, C, s, s], in float32.

    strides: of the levels that are pooled from, finest first; further levels are not looked at. size: s.
    sampling_ratio: points of a cell's side, 0 as many as the RoI has pixels there. aligned: pixel centers lie half a
    pixel inside; torchvision's detectors were trained without (and with sampling_ratio 2). scale: what is pooled is the
    RoI enlarged so many times about its center; its level stays that of the RoI itself.
    """

    def __init__(
        self,
        strides: Sequence[int] = (4, 8, 16, 32),
        size: int = 7,
        sampling_ratio: int = 0,
        aligned: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.size = size
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.scale = scale

    def enlarged(self, scale: float) -> RoIAlign:
        """The same pooling with another `scale`."""
        return RoIAlign(self.strides, self.size, self.sampling_ratio, self.aligned, scale)

    def forward(
        self, levels: Sequence[Tensor], rois: Float[Tensor, "R 4"], image: Int64[Tensor, "R"]
    ) -> Float[Tensor, "R C s s"]:
        """image: the image of the batch that each RoI lies in.

        RoIs in the order of their levels spare two copies of the result, which put it into the order of the RoIs.
        """
        shape = (len(rois), levels[0].shape[1], self.size, self.size)
        if rois.is_meta:  # without values no level can be chosen; the shape is known
            return rois.new_empty(shape)
        level = roi_levels(rois, len(self.strides))
        of_level = level[:, None] == torch.arange(len(self.strides), device=rois.device)  # [R, levels]
        falling = (level[1:] < level[:-1]).any()
        *counts, unordered = torch.cat([of_level.sum(dim=0), falling[None]]).tolist()  # one wait for the device
        rois = rois.float()
        if self.scale != 1:
            center, half = (rois[:, :2] + rois[:, 2:]) / 2, (rois[:, 2:] - rois[:, :2]) * (self.scale / 2)
            rois = torch.cat([center - half, center + half], dim=1)
        rows = torch.cat([image[:, None].float(), rois], dim=1)
        order = level.argsort(stable=True) if unordered else None
        parts = (rows if order is None else rows[order]).split(counts)
        # Coordinates in half precision would be pixels off.
        with torch.autocast(rois.device.type, enabled=False):
            pooled = torch.cat([
                roi_align(x.float(), row, self.size, 1 / stride, self.sampling_ratio, self.aligned)
                for x, stride, row in zip(levels, self.strides, parts, strict=False)
            ])
        if order is None:
            return pooled
        # The way back of index_copy is a plain gather; that of an index is a sum.
        return pooled.new_zeros(shape).index_copy(0, order, pooled)
