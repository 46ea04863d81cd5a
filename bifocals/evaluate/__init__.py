"""Floor 2: detections -> numbers."""

from .analysis import Analysis
from .assignment import Choice, ImageAssignment, inspect_assignment
from .average_precision import AveragePrecision, average_precision, coco_average_precision
from .before_nms import BeforeNMS, rank_correlation
from .bootstrap import Interval, resampled_ap
from .boundary_iou import boundary_confusion, boundary_iou, outline
from .cost import Cost, PartCost, cost
from .crowd import CrowdMetrics, crowd_metrics
from .duplicates import duplicate_rate
from .error_split import ErrorSplit, error_split
from .evaluation import Compared, Evaluation, evaluate
from .mask_ap import mask_average_precision, pasted_masks
from .matches import Matches, match
from .miou import Confusion, confusion_matrix
from .nms_recall import NMSRecall, nms_recall
from .pixels import PixelEvaluation, evaluate_maps
from .rivals import RIVALS, Rival
from .stopwatch import Speed
from .trust import Trust, trust_in
from .voc_ap import VOCMetrics, voc_metrics

__all__ = [
    "RIVALS",
    "Analysis",
    "AveragePrecision",
    "BeforeNMS",
    "Choice",
    "Compared",
    "Confusion",
    "Cost",
    "CrowdMetrics",
    "ErrorSplit",
    "Evaluation",
    "ImageAssignment",
    "Interval",
    "Matches",
    "NMSRecall",
    "PartCost",
    "PixelEvaluation",
    "Rival",
    "Speed",
    "Trust",
    "VOCMetrics",
    "average_precision",
    "boundary_confusion",
    "boundary_iou",
    "coco_average_precision",
    "confusion_matrix",
    "cost",
    "crowd_metrics",
    "duplicate_rate",
    "error_split",
    "evaluate",
    "evaluate_maps",
    "inspect_assignment",
    "mask_average_precision",
    "match",
    "nms_recall",
    "outline",
    "pasted_masks",
    "rank_correlation",
    "resampled_ap",
    "trust_in",
    "voc_metrics",
]
