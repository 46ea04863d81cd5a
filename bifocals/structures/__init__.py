"""Floor 0: records, boxes, protocols and the clock."""

from .boxes import (
    area,
    boxes_from_distances,
    clip_boxes,
    distances_from_boxes,
    paired_iou,
    pairwise_iou,
    points_inside,
    to_cxcywh,
)
from .match import Match, Matches
from .matched import Matched
from .outputs import DenseOutput, Detections, Prediction
from .priors import Priors, make_points
from .protocols import Assigner, Balancer, BatchAssigner, Loss, Scheduled
from .ranks import rank, sum_over_ranks, world_size
from .target import Batch, Target, pad_targets

__all__ = [
    "Assigner",
    "Balancer",
    "Batch",
    "BatchAssigner",
    "DenseOutput",
    "Detections",
    "Loss",
    "Match",
    "Matched",
    "Matches",
    "Prediction",
    "Priors",
    "Scheduled",
    "Target",
    "area",
    "boxes_from_distances",
    "clip_boxes",
    "distances_from_boxes",
    "make_points",
    "pad_targets",
    "paired_iou",
    "pairwise_iou",
    "points_inside",
    "rank",
    "sum_over_ranks",
    "to_cxcywh",
    "world_size",
]
