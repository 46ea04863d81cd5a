"""Floor 1: networks, computation without supervision."""

from .backbone import Backbone, Body, TimmBody, build_backbone, load_backbone
from .dense import DenseDetector, DenseHead, prune
from .fpn import FPN
from .pixels import Normalize
from .predictor import PointPredictor, flatten_levels
from .tower import Tower, Towers

__all__ = [
    "FPN",
    "Backbone",
    "Body",
    "DenseDetector",
    "DenseHead",
    "Normalize",
    "PointPredictor",
    "TimmBody",
    "Tower",
    "Towers",
    "build_backbone",
    "flatten_levels",
    "load_backbone",
    "prune",
]
