"""Floor 2: outputs -> detections -> pictures and files."""

from .detect import detect
from .draw import class_color, draw_detections
from .draw_maps import draw_map, palette_picture
from .folder import Picture, Predictions, find_pictures, predict
from .folder_maps import MapPrediction, MapPredictions, predict_maps
from .inference import Precision, inference, of_output
from .map_views import MapViews, rescaled, segment
from .paste import paste_masks
from .pixel_postprocess import PixelPostprocess
from .postprocess import Candidates, Postprocess
from .results import coco_results, save_results
from .roi_postprocess import RoIPostprocess
from .top import top_pairs
from .tta import MERGE_NMS, Views, detect_views, merging, multi_scale

__all__ = [
    "MERGE_NMS",
    "Candidates",
    "MapPrediction",
    "MapPredictions",
    "MapViews",
    "Picture",
    "PixelPostprocess",
    "Postprocess",
    "Precision",
    "Predictions",
    "RoIPostprocess",
    "Views",
    "class_color",
    "coco_results",
    "detect",
    "detect_views",
    "draw_detections",
    "draw_map",
    "find_pictures",
    "inference",
    "merging",
    "multi_scale",
    "of_output",
    "palette_picture",
    "paste_masks",
    "predict",
    "predict_maps",
    "rescaled",
    "save_results",
    "segment",
    "top_pairs",
]
