"""Floor 2: outputs -> detections -> pictures and files."""

from .detect import detect
from .draw import class_color, draw_detections
from .folder import Picture, Predictions, find_pictures, predict
from .inference import Precision, inference, of_output
from .postprocess import Postprocess
from .results import coco_results, save_results
from .top import stable_top, top_pairs

__all__ = [
    "Picture",
    "Postprocess",
    "Precision",
    "Predictions",
    "class_color",
    "coco_results",
    "detect",
    "draw_detections",
    "find_pictures",
    "inference",
    "of_output",
    "predict",
    "save_results",
    "stable_top",
    "top_pairs",
]
