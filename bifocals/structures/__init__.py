"""Floor 0: records, boxes, protocols and the clock."""

from .anchors import AnchorRule, Anchors, inside_canvas
from .boxes import (
    area,
    boxes_from_distances,
    clip_boxes,
    distances_from_boxes,
    paired_iou,
    pairwise_intersection,
    pairwise_iou,
    points_inside,
    to_cxcywh,
)
from .deltas import DeltaCoder
from .history import History
from .match import Match, Matches
from .matched import Matched, Normalizer
from .outputs import DenseOutput, Detections, Prediction
from .pixel_loss import IGNORED, PixelLoss
from .priors import Priors, make_points, priors_inside
from .protocols import Assigner, Balancer, BatchAssigner, Draining, Loss, Reporting, Scheduled, Watching
from .ranks import of_all_ranks, rank, sum_over_ranks, world_size
from .roi import RoIOutput
from .target import Batch, Target, pad_targets
from .top import stable_top

__all__ = [
    "IGNORED",
    "AnchorRule",
    "Anchors",
    "Assigner",
    "Balancer",
    "Batch",
    "BatchAssigner",
    "DeltaCoder",
    "DenseOutput",
    "Detections",
    "Draining",
    "History",
    "Loss",
    "Match",
    "Matched",
    "Matches",
    "Normalizer",
    "PixelLoss",
    "Prediction",
    "Priors",
    "Reporting",
    "RoIOutput",
    "Scheduled",
    "Target",
    "Watching",
    "area",
    "boxes_from_distances",
    "clip_boxes",
    "distances_from_boxes",
    "inside_canvas",
    "make_points",
    "of_all_ranks",
    "pad_targets",
    "paired_iou",
    "pairwise_intersection",
    "pairwise_iou",
    "points_inside",
    "priors_inside",
    "rank",
    "stable_top",
    "sum_over_ranks",
    "to_cxcywh",
    "world_size",
]
