"""Floor 1: networks, computation without supervision."""

from .anchor_predictor import AnchorPredictor
from .backbone import Backbone, Body, TimmBody, build_backbone, load_backbone
from .dense import DenseDetector, DenseHead, prune
from .depression import Depression, Depressor
from .filter3d import FilteredPredictor, MaxFilter3D, filtered_logits
from .fpn import FPN
from .pixels import Normalize
from .predictor import PointPredictor, flatten_levels
from .tower import Tower, Towers

__all__ = [
    "FPN",
    "AnchorPredictor",
    "Backbone",
    "Body",
    "DenseDetector",
    "DenseHead",
    "Depression",
    "Depressor",
    "FilteredPredictor",
    "MaxFilter3D",
    "Normalize",
    "PointPredictor",
    "TimmBody",
    "Tower",
    "Towers",
    "build_backbone",
    "filtered_logits",
    "flatten_levels",
    "load_backbone",
    "prune",
]
