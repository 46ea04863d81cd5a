"""Data sets: reading, checking, augmenting and streaming them."""

from .annotations import Annotations, PackedStrings
from .coco import load_coco, save_coco
from .crowdhuman import load_crowdhuman, save_crowdhuman
from .dataset import DetectionDataset
from .defects import DataError, Defect
from .images import read_image
from .source import Data, check_dataset, has_split, open_split
from .stream import collate, eval_stream, train_stream
from .synthetic import Scene, draw_scenes, save_scenes
from .transforms import Input, eval_transform, train_transform
from .voc import load_voc, save_voc
from .yolo import load_yolo, save_yolo

__all__ = [
    "Annotations",
    "Data",
    "DataError",
    "Defect",
    "DetectionDataset",
    "Input",
    "PackedStrings",
    "Scene",
    "check_dataset",
    "collate",
    "draw_scenes",
    "eval_stream",
    "eval_transform",
    "has_split",
    "load_coco",
    "load_crowdhuman",
    "load_voc",
    "load_yolo",
    "open_split",
    "read_image",
    "save_coco",
    "save_crowdhuman",
    "save_scenes",
    "save_voc",
    "save_yolo",
    "train_stream",
    "train_transform",
]
