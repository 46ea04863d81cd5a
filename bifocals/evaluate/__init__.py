"""Floor 2: detections -> numbers."""

from .analysis import Analysis
from .average_precision import AveragePrecision, average_precision, coco_average_precision
from .before_nms import BeforeNMS, rank_correlation
from .bootstrap import Interval, resampled_ap
from .cost import Cost, PartCost, cost
from .crowd import CrowdMetrics, crowd_metrics
from .duplicates import duplicate_rate
from .error_split import ErrorSplit, error_split
from .evaluation import Compared, Evaluation, evaluate
from .matches import Matches, match
from .nms_recall import NMSRecall, nms_recall
from .trust import Trust, trust_in

__all__ = [
    "Analysis",
    "AveragePrecision",
    "BeforeNMS",
    "Compared",
    "Cost",
    "CrowdMetrics",
    "ErrorSplit",
    "Evaluation",
    "Interval",
    "Matches",
    "NMSRecall",
    "PartCost",
    "Trust",
    "average_precision",
    "coco_average_precision",
    "cost",
    "crowd_metrics",
    "duplicate_rate",
    "error_split",
    "evaluate",
    "match",
    "nms_recall",
    "rank_correlation",
    "resampled_ap",
    "trust_in",
]
