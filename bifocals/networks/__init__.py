"""Floor 1: networks, computation without supervision."""

from .anchor_predictor import AnchorPredictor
from .backbone import Backbone, Body, TimmBody, build_backbone, load_backbone
from .deformable import DeformConv2d, ModulatedConv2d, is_deformable, make_deformable
from .dense import DenseDetector, DenseHead, prune
from .depression import Depression, Depressor
from .filter3d import FilteredPredictor, MaxFilter3D, filtered_logits
from .fpn import FPN
from .pixels import Normalize
from .predictor import PointPredictor, flatten_levels
from .star import SidesPredictor, StarPredictor, star_offsets
from .tower import Tower, Towers

__all__ = [
    "FPN",
    "AnchorPredictor",
    "Backbone",
    "Body",
    "DeformConv2d",
    "DenseDetector",
    "DenseHead",
    "Depression",
    "Depressor",
    "FilteredPredictor",
    "MaxFilter3D",
    "ModulatedConv2d",
    "Normalize",
    "PointPredictor",
    "SidesPredictor",
    "StarPredictor",
    "TimmBody",
    "Tower",
    "Towers",
    "build_backbone",
    "filtered_logits",
    "flatten_levels",
    "is_deformable",
    "load_backbone",
    "make_deformable",
    "prune",
    "star_offsets",
]
