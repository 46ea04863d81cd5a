"""Floor 1: networks, computation without supervision."""

from .anchor_predictor import AnchorPredictor
from .backbone import Backbone, Body, TimmBody, build_backbone, load_backbone
from .balanced_pyramid import BalancedPyramid, NonLocal, Refine
from .bisenet import BiSeNet, PixelHead
from .context_path import AttentionRefinement, ContextPath
from .conv_block import ConvBlock
from .deformable import DeformConv2d, ModulatedConv2d, is_deformable, make_deformable
from .dense import DenseDetector, DenseHead, prune
from .depression import Depression, Depressor
from .double_head import DoubleHead, HeadNorm
from .filter3d import FilteredPredictor, MaxFilter3D, filtered_logits
from .fpn import FPN
from .fusion import FeatureFusion, SpatialPath
from .mask_head import MaskHead
from .pixels import Normalize
from .predictor import PointPredictor, flatten_levels
from .proposals import ProposalChoice, Proposals
from .roi_align import RoIAlign, roi_levels
from .roi_head import ROI_CODER, BoxHead
from .rpn import RPN, RPN_ANCHORS
from .star import SidesPredictor, StarPredictor, star_offsets
from .tower import Tower, Towers
from .two_stage import RoIAssigner, TwoStageDetector

__all__ = [
    "FPN",
    "ROI_CODER",
    "RPN",
    "RPN_ANCHORS",
    "AnchorPredictor",
    "AttentionRefinement",
    "Backbone",
    "BalancedPyramid",
    "BiSeNet",
    "Body",
    "BoxHead",
    "ContextPath",
    "ConvBlock",
    "DeformConv2d",
    "DenseDetector",
    "DenseHead",
    "Depression",
    "Depressor",
    "DoubleHead",
    "FeatureFusion",
    "FilteredPredictor",
    "HeadNorm",
    "MaskHead",
    "MaxFilter3D",
    "ModulatedConv2d",
    "NonLocal",
    "Normalize",
    "PixelHead",
    "PointPredictor",
    "ProposalChoice",
    "Proposals",
    "Refine",
    "RoIAlign",
    "RoIAssigner",
    "SidesPredictor",
    "SpatialPath",
    "StarPredictor",
    "TimmBody",
    "Tower",
    "Towers",
    "TwoStageDetector",
    "build_backbone",
    "filtered_logits",
    "flatten_levels",
    "is_deformable",
    "load_backbone",
    "make_deformable",
    "prune",
    "roi_levels",
    "star_offsets",
]
