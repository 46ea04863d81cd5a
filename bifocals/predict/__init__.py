"""Floor 2: outputs -> detections -> pictures and files."""

from .detect import detect
from .draw import class_color, draw_detections
from .folder import Picture, Predictions, find_pictures, predict
from .inference import Precision, inference, of_output
from .postprocess import Candidates, Postprocess
from .results import coco_results, save_results
from .top import stable_top, top_pairs
from .tta import MERGE_NMS, Views, detect_views, merging, multi_scale

__all__ = [
    "MERGE_NMS",
    "Candidates",
    "Picture",
    "Postprocess",
    "Precision",
    "Predictions",
    "Views",
    "class_color",
    "coco_results",
    "detect",
    "detect_views",
    "draw_detections",
    "find_pictures",
    "inference",
    "merging",
    "multi_scale",
    "of_output",
    "predict",
    "save_results",
    "stable_top",
    "top_pairs",
]
