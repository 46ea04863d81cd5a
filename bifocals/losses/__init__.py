"""Floor 1: losses, scalars of the matched view."""

from .bag_negatives import IoUNegatives, SoftNegatives
from .by_name import BoxLossName, ClsLossName, DeltaLossName, named_box_loss, named_cls_loss
from .centerness import Centerness, centerness
from .dfl import distance_targets, distribution_focal_loss
from .dr import DR
from .focal import Focal
from .ghm import GHM, GradientDensity
from .hcra_c import HCRAC, negative_omega, rci_cls
from .hcra_r import HCRAR, conditioning, rci_reg
from .initial import Initial
from .iou import IoULoss
from .iou_kinds import IoUKind, iou_loss
from .iou_quality import IoUQuality
from .multiple_anchor import Aggregate, BagLoss, Select, mean_max, mean_of_best, num_selected
from .pair_weight import PairWeight, weighted_mean
from .quality_focal import QualityFocal, Varifocal
from .regression import L1, BalancedL1, SmoothL1, balanced_l1
from .wise_iou import WiseIoU

__all__ = [
    "DR",
    "GHM",
    "HCRAC",
    "HCRAR",
    "L1",
    "Aggregate",
    "BagLoss",
    "BalancedL1",
    "BoxLossName",
    "Centerness",
    "ClsLossName",
    "DeltaLossName",
    "Focal",
    "GradientDensity",
    "Initial",
    "IoUKind",
    "IoULoss",
    "IoUNegatives",
    "IoUQuality",
    "PairWeight",
    "QualityFocal",
    "Select",
    "SmoothL1",
    "SoftNegatives",
    "Varifocal",
    "WiseIoU",
    "balanced_l1",
    "centerness",
    "conditioning",
    "distance_targets",
    "distribution_focal_loss",
    "iou_loss",
    "mean_max",
    "mean_of_best",
    "named_box_loss",
    "named_cls_loss",
    "negative_omega",
    "num_selected",
    "rci_cls",
    "rci_reg",
    "weighted_mean",
]
