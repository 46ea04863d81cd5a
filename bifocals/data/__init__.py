"""Data sets: reading, checking, augmenting and streaming them."""

from .annotations import Annotations, PackedStrings
from .camvid import load_camvid
from .checking_sets import check_dataset
from .cityscapes import load_cityscapes
from .class_list import ClassList
from .coco import load_coco, save_coco
from .coco_stuff import load_coco_stuff
from .crowdhuman import load_crowdhuman, save_crowdhuman
from .dataset import DetectionDataset, Source
from .defects import DataError, Defect
from .images import read_image
from .label_folder import load_label_folder, save_label_folder
from .label_maps import ClassFrequencies, LabelMaps, class_frequencies
from .lookup import find_image
from .map_source import has_map_split, open_maps
from .map_transforms import MapInput, map_eval_transform, map_train_transform
from .segmentations import decode_masks, encode_masks
from .source import Data, has_split, open_split
from .stream import collate, eval_stream, train_stream
from .synthetic import Scene, draw_scenes, save_scenes
from .synthetic_streets import STREETS, Street, draw_streets, save_streets
from .transforms import Input, eval_transform, train_transform
from .voc import load_voc, save_voc
from .voc_maps import load_voc_maps
from .yolo import load_yolo, save_yolo

__all__ = [
    "STREETS",
    "Annotations",
    "ClassFrequencies",
    "ClassList",
    "Data",
    "DataError",
    "Defect",
    "DetectionDataset",
    "Input",
    "LabelMaps",
    "MapInput",
    "PackedStrings",
    "Scene",
    "Source",
    "Street",
    "check_dataset",
    "class_frequencies",
    "collate",
    "decode_masks",
    "draw_scenes",
    "draw_streets",
    "encode_masks",
    "eval_stream",
    "eval_transform",
    "find_image",
    "has_map_split",
    "has_split",
    "load_camvid",
    "load_cityscapes",
    "load_coco",
    "load_coco_stuff",
    "load_crowdhuman",
    "load_label_folder",
    "load_voc",
    "load_voc_maps",
    "load_yolo",
    "map_eval_transform",
    "map_train_transform",
    "open_maps",
    "open_split",
    "read_image",
    "save_coco",
    "save_crowdhuman",
    "save_label_folder",
    "save_scenes",
    "save_streets",
    "save_voc",
    "save_yolo",
    "train_stream",
    "train_transform",
]
