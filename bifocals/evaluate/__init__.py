"""Floor 2: detections -> numbers."""

from .average_precision import AveragePrecision, average_precision, coco_average_precision
from .bootstrap import Interval, resampled_ap
from .cost import Cost, PartCost, cost
from .crowd import CrowdMetrics, crowd_metrics
from .duplicates import duplicate_rate
from .evaluation import Compared, Evaluation, evaluate
from .matches import Matches, match
from .nms_recall import NMSRecall, nms_recall
from .trust import Trust, trust_in

__all__ = [
    "AveragePrecision",
    "Compared",
    "Cost",
    "CrowdMetrics",
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
    "evaluate",
    "match",
    "nms_recall",
    "resampled_ap",
    "trust_in",
]
