"""Non-maximum suppression inside an ONNX graph, for outputs that need it.

One torch operator with a fixed output shape, so that `torch.export` meets no data-dependent shape, and its translation
to ONNX's NonMaxSuppression, which counts images itself: the graph takes any number of them.

Letters: B images, M candidates of an image, C classes.
"""

from typing import Any

import torch
from onnxscript import FLOAT, INT64, opset18
from torch import Tensor
from torchvision.ops import batched_nms


@torch.library.custom_op("bifocals::class_nms", mutates_args=())
def class_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou: float, max_detections: int
) -> Tensor:
    """[B, M] True where a candidate stays: its score is positive, and no better one of its class overlaps it too much.

    boxes: [B, M, 4] xyxy. scores, labels: [B, M]. iou: above it two overlap too much. Of each class the best
    `max_detections` stay.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(scores)):
        real = torch.nonzero(scores[image] > 0)[:, 0]
        stays = real[batched_nms(boxes[image, real], scores[image, real], labels[image, real], iou)]
        for label in range(num_classes):
            keep[image, stays[labels[image, stays] == label][:max_detections]] = True
    return keep


@class_nms.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, iou: float, max_detections: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _class_nms_onnx(
    boxes: FLOAT, scores: FLOAT, labels: INT64, num_classes: int, iou: float, max_detections: int
) -> Any:
    op: Any = opset18  # its type hints know no constants
    classes = op.Reshape(op.Range(op.Constant(value_int=0), op.Constant(value_int=num_classes),
                                  op.Constant(value_int=1)), op.Constant(value_ints=[1, -1, 1]))
    of_class = op.Equal(op.Unsqueeze(labels, op.Constant(value_ints=[1])), classes)  # [B, C, M]
    by_class = op.Where(of_class, op.Unsqueeze(scores, op.Constant(value_ints=[1])), op.Constant(value_float=0.0))
    # The order of the corners is y, x in ONNX; the IoU is the same for x, y.
    chosen = op.NonMaxSuppression(boxes, by_class, op.Constant(value_ints=[max_detections]),
                                  op.Constant(value_floats=[iou]), op.Constant(value_floats=[0.0]))
    place = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # image and candidate of what stays
    kept = op.Expand(op.Constant(value_float=1.0), op.Shape(place, start=0, end=1))
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.Cast(op.ScatterND(nothing, place, kept), to=9)  # 9 is BOOL


def translations() -> dict[Any, Any]:
    """How `torch.onnx.export` writes the operators of this module."""
    return {torch.ops.bifocals.class_nms.default: _class_nms_onnx}
