"""What a batch carries: images as bytes, targets as tensors.

Letters: B images, G objects of an image, H and W pixels of the padded canvas, h and w of the image before padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """The objects of one image, in pixels of the resized, un-padded image.

    `size_hw` is the size after resizing, `original_hw` the size on disk; their ratio maps boxes back.
    `crowd` marks regions that count neither as object nor as background in evaluation. It stays on the CPU when the
    rest moves to a device, so that looking at it never waits for the device. Training takes crowd out of the objects,
    as the papers do; `regions` (R of them) keeps their boxes for assigners that leave such regions out.
    masks: 1 where a pixel belongs to the object, for instance segmentation. semantic: the class of each pixel, 255
    where it does not count, for semantic segmentation. Both None where the task has no use for them.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int64[Tensor, "G"]
    crowd: Bool[Tensor, "G"]
    size_hw: tuple[int, int]
    original_hw: tuple[int, int]
    image_id: int = -1
    crowd_boxes: Float[Tensor, "R 4"] | None = None
    masks: UInt8[Tensor, "G h w"] | None = None
    semantic: UInt8[Tensor, "h w"] | None = None

    @property
    def regions(self) -> Float[Tensor, "R 4"]:
        """Boxes of the crowd regions that `without_crowd` took out."""
        return self.boxes.new_zeros(0, 4) if self.crowd_boxes is None else self.crowd_boxes

    def to(self, device: torch.device | str) -> Target:
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            crowd_boxes=None if self.crowd_boxes is None else self.crowd_boxes.to(device, non_blocking=True),
            masks=None if self.masks is None else self.masks.to(device, non_blocking=True),
            semantic=None if self.semantic is None else self.semantic.to(device, non_blocking=True),
        )

    def without_crowd(self) -> Target:
        """The same image with its crowd regions taken out of the objects and kept in `regions`."""
        if not self.crowd.any():
            return self
        keep = (~self.crowd).nonzero()[:, 0]
        on_device = keep.to(self.boxes.device)
        regions = self.boxes[self.crowd.nonzero()[:, 0].to(self.boxes.device)]
        return replace(self, boxes=self.boxes[on_device], labels=self.labels[on_device], crowd=self.crowd[keep],
                       crowd_boxes=torch.cat([self.regions, regions]),
                       masks=None if self.masks is None else self.masks[on_device])

    @property
    def scale_xyxy(self) -> tuple[float, float, float, float]:
        """Resized over original size, for x1, y1, x2, y2."""
        scale_y = self.size_hw[0] / self.original_hw[0]
        scale_x = self.size_hw[1] / self.original_hw[1]
        return (scale_x, scale_y, scale_x, scale_y)


@dataclass(frozen=True)
class Batch:
    """Images padded at the right and the bottom to one canvas, RGB bytes, and a target for each."""

    images: UInt8[Tensor, "B 3 H W"]
    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.images):
            raise ValueError(f"Batch expected one target for each image, got {len(self.targets)} targets "
                             f"for {len(self.images)} images.")

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.images.to(device, non_blocking=True), tuple(t.to(device) for t in self.targets))

    def pin_memory(self) -> Batch:
        """Called by torch's DataLoader when `pin_memory` is on."""
        return Batch(self.images.pin_memory(), self.targets)

    @property
    def image_ids(self) -> list[int]:
        return [t.image_id for t in self.targets]


def pad_targets(targets: Sequence[Target]) -> tuple[Float[Tensor, "B G 4"], Int64[Tensor, "B G"], Bool[Tensor, "B G"]]:
    """Boxes and labels of a batch as padded arrays, and which of them are real.

    Padding lets an assigner treat a batch at once; a padded box is (0, 0, 0, 0), holds no point and overlaps nothing.
    """
    counts = [len(t.labels) for t in targets]
    first, width = targets[0].boxes, max(counts)
    boxes = first.new_zeros(len(targets), width, 4)
    labels = targets[0].labels.new_zeros(len(targets), width)
    real = torch.zeros(len(targets), width, dtype=torch.bool)
    for i, (target, count) in enumerate(zip(targets, counts, strict=True)):
        boxes[i, :count], labels[i, :count], real[i, :count] = target.boxes, target.labels, True
    return boxes, labels, real.to(first.device, non_blocking=True)
