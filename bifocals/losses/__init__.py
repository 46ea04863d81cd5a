"""Floor 1: losses, scalars of the matched view."""

from .centerness import Centerness, centerness
from .focal import Focal
from .iou import IoUKind, IoULoss, iou_loss
from .regression import L1

__all__ = ["L1", "Centerness", "Focal", "IoUKind", "IoULoss", "centerness", "iou_loss"]
