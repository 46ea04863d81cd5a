"""Floor 2: detections -> numbers."""

from .average_precision import AveragePrecision, average_precision, coco_average_precision
from .cost import Cost, PartCost, cost
from .duplicates import duplicate_rate
from .evaluation import Evaluation, evaluate

__all__ = [
    "AveragePrecision",
    "Cost",
    "Evaluation",
    "PartCost",
    "average_precision",
    "coco_average_precision",
    "cost",
    "duplicate_rate",
    "evaluate",
]
