"""Pooling of regions of interest inside an ONNX graph, each from the pyramid level that fits it.

One torch operator with a fixed output shape, so that `torch.export` meets no data-dependent shape, and its translation:
each level's RoIs are gathered, pooled by ONNX's RoiAlign, and put back into their order.

Letters: R RoIs of a batch, C channels, s cells of a side.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from onnxscript import FLOAT, INT64, opset18
from torch import Tensor, nn
from torchvision.ops import roi_align

from bifocals.networks import RoIAlign
from bifocals.networks.roi_align import FINEST
from bifocals.structures import area


@torch.library.custom_op("bifocals::pool_levels", mutates_args=())
def pool_levels(
    levels: list[Tensor],
    rois: Tensor,
    image: Tensor,
    level: Tensor,
    strides: list[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """[R, C, size, size] features of the RoIs [R, 4], xyxy pixels, of images [R], each from its level [R].

    levels: as many feature maps as there are strides. Else as torchvision's `roi_align`.
    """
    pooled = rois.new_zeros(len(rois), levels[0].shape[1], size, size)
    rows = torch.cat([image[:, None].to(rois.dtype), rois], dim=1)
    for number, (x, stride) in enumerate(zip(levels, strides, strict=True)):
        mine = (level == number).nonzero()[:, 0]
        pooled[mine] = roi_align(x, rows[mine], size, 1 / stride, sampling_ratio, aligned)
    return pooled


@pool_levels.register_fake
def _(
    levels: list[Tensor],
    rois: Tensor,
    image: Tensor,
    level: Tensor,
    strides: list[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return rois.new_empty(rois.shape[0], levels[0].shape[1], size, size)


def _pool_levels_onnx(
    levels: Sequence[FLOAT],
    rois: FLOAT,
    image: INT64,
    level: INT64,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    op: Any = opset18  # its type hints know no constants
    first = op.Constant(value_ints=[1])
    places, parts = [], []
    for number, (x, stride) in enumerate(zip(levels, strides, strict=True)):
        mine = op.Squeeze(op.NonZero(op.Equal(level, op.Constant(value_int=number))), op.Constant(value_ints=[0]))
        places.append(mine)
        parts.append(op.RoiAlign(
            x, op.Gather(rois, mine), op.Gather(image, mine), output_height=size, output_width=size,
            sampling_ratio=sampling_ratio, spatial_scale=1 / stride,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        ))
    place = op.Concat(*places, axis=0)  # of each pooled row among the RoIs
    counted = op.Range(op.Constant(value_int=0), op.Squeeze(op.Shape(place)), op.Constant(value_int=1))
    back = op.ScatterND(place, op.Unsqueeze(place, first), counted)
    return op.Gather(op.Concat(*parts, axis=0), back)


def translations() -> dict[Any, Any]:
    """How `torch.onnx.export` writes the operator of this module."""
    return {torch.ops.bifocals.pool_levels.default: _pool_levels_onnx}


def roi_level(rois: Float[Tensor, "R 4"], num_levels: int) -> Int64[Tensor, "R"]:
    """`bifocals.networks.roi_levels` by comparison: the last digit of a logarithm is rounded in ONNX in its own way."""
    side = area(rois).sqrt() / FINEST + 1e-6
    return (side[:, None] >= 2.0 ** torch.arange(1, num_levels)).sum(dim=1)


class GraphRoIAlign(RoIAlign):
    """`RoIAlign` as one operator."""

    def forward(
        self, levels: Sequence[Tensor], rois: Float[Tensor, "R 4"], image: Int64[Tensor, "R"]
    ) -> Float[Tensor, "R C s s"]:
        level = roi_level(rois, len(self.strides))
        if self.scale != 1:
            center, half = (rois[:, :2] + rois[:, 2:]) / 2, (rois[:, 2:] - rois[:, :2]) * (self.scale / 2)
            rois = torch.cat([center - half, center + half], dim=1)
        used = [x.float() for x in levels[: len(self.strides)]]
        return pool_levels(used, rois, image, level, list(self.strides), self.size, self.sampling_ratio, self.aligned)


def with_graph_pools(module: nn.Module) -> nn.Module:
    """A copy of the module whose `RoIAlign`s can be part of a graph."""
    copied = copy.deepcopy(module)
    for part in list(copied.modules()):
        for name, child in part.named_children():
            if type(child) is RoIAlign:
                setattr(part, name, GraphRoIAlign(child.strides, child.size, child.sampling_ratio, child.aligned,
                                                  child.scale))
    return copied
