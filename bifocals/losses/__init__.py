"""Floor 1: losses, scalars of the matched view."""

from .bag_negatives import IoUNegatives, SoftNegatives
from .binary import BinaryCrossEntropy
from .by_name import BoxLossName, ClsLossName, DeltaLossName, named_box_loss, named_cls_loss
from .centerness import Centerness, centerness
from .dfl import distance_targets, distribution_focal_loss
from .dr import DR
from .dynamic import DynamicSmoothL1
from .factors import PairFactors, Weighing
from .focal import Focal
from .ghm import GHM, GradientDensity
from .hcra_c import HCRAC, negative_omega, rci_cls
from .hcra_r import HCRAR, conditioning, rci_reg
from .initial import Initial
from .iou import IoULoss
from .iou_kinds import IoUKind, iou_loss
from .iou_quality import IoUQuality
from .mask import MaskLoss, mask_targets
from .multiple_anchor import Aggregate, BagLoss, Select, mean_max, mean_of_best, num_selected
from .pair_weight import PairWeight, weighted_mean
from .pixel import OHEM, Dice, PixelCE, PixelNormalizer
from .quality_focal import QualityFocal, Varifocal
from .regression import L1, BalancedL1, SmoothL1, balanced_l1
from .softmax import SoftmaxCrossEntropy
from .wise_iou import WiseIoU

__all__ = [
    "DR",
    "GHM",
    "HCRAC",
    "HCRAR",
    "L1",
    "OHEM",
    "Aggregate",
    "BagLoss",
    "BalancedL1",
    "BinaryCrossEntropy",
    "BoxLossName",
    "Centerness",
    "ClsLossName",
    "DeltaLossName",
    "Dice",
    "DynamicSmoothL1",
    "Focal",
    "GradientDensity",
    "Initial",
    "IoUKind",
    "IoULoss",
    "IoUNegatives",
    "IoUQuality",
    "MaskLoss",
    "PairFactors",
    "PairWeight",
    "PixelCE",
    "PixelNormalizer",
    "QualityFocal",
    "Select",
    "SmoothL1",
    "SoftNegatives",
    "SoftmaxCrossEntropy",
    "Varifocal",
    "Weighing",
    "WiseIoU",
    "balanced_l1",
    "centerness",
    "conditioning",
    "distance_targets",
    "distribution_focal_loss",
    "iou_loss",
    "mask_targets",
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
