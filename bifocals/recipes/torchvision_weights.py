"""Detectors of torchvision as a start: their files under our names, their classes in our order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath

import torch
from torch import Tensor, nn
from torchvision.models import detection

from bifocals.networks import Backbone, BoxHead, TwoStageDetector
from bifocals.train import Source, copy_weights

KNOWN = "fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, retinanet_resnet50_fpn and retinanet_resnet50_fpn_v2"
_PUBLISHED = (
    detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1,
)
WITHOUT_EPSILON = {weights.url.rsplit("/", 1)[1] for weights in _PUBLISHED}
"""Published files that torchvision uses with batch norms of epsilon 0."""
COCO_ROWS = [
    i for i, name in enumerate(_PUBLISHED[0].meta["categories"]) if name not in ("__background__", "N/A")
]
"""Of the 91 rows of these files (0 the background) those that are one of COCO's 80 classes."""

# What is renamed, by the beginning of the name. Files from before torchvision 0.14 have fewer numbers in it.
_RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"backbone\.body\.conv1\.", "backbone.stages.0.0."),
    (r"backbone\.body\.bn1\.", "backbone.stages.0.1."),
    (r"backbone\.body\.layer(\d)\.", r"backbone.stages.\1."),
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.pyramid.\1_blocks.\2.0.\3"),
    (r"backbone\.fpn\.extra_blocks\.", "neck.pyramid.extra_blocks."),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)$", r"rpn.conv.\1"),
    (r"rpn\.head\.cls_logits\.", "rpn.cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn.box."),
    (r"roi_heads\.box_head\.fc6\.", "roi.fc1."),
    (r"roi_heads\.box_head\.fc7\.", "roi.fc2."),
    (r"roi_heads\.box_predictor\.cls_score\.", "roi.cls."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "roi.box."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.layers.{2 * int(m[1]) - 2}."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"mask.layers.{2 * int(m[1])}."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask.up."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.cls."),
)


def is_torchvision(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a detector of torchvision with a ResNet."""
    heads = ("rpn.head.", "head.classification_head.")
    return "backbone.body.conv1.weight" in tensors and any(name.startswith(heads) for name in tensors)


def copy_torchvision(network: nn.Module, source: Source, backbone: Backbone) -> str:
    """Copies what a file of torchvision's Faster R-CNN, Mask R-CNN or RetinaNet has for this network, and says so.

    The layers that tell classes apart are copied where the file has as many classes as the network, class for class,
    or all of COCO and the network COCO's 80; else they start anew. ValueError if the body is another one.
    """
    if backbone.style != "pytorch":
        raise ValueError(f"--init expected a body of style 'pytorch' for {source.origin}, a file of torchvision, got "
                         f"{backbone.style!r}; --backbone.style pytorch goes on with it.")
    if any(re.match(r"backbone\.fpn\.inner_blocks\.\d\.1\.", name) for name in source.tensors):
        raise ValueError(f"--init expected a file of {KNOWN}, got {source.origin}, which has norms in its pyramid.")
    tensors = _renamed(source.tensors)
    said = ""
    if PurePath(source.origin).name in WITHOUT_EPSILON:
        tensors |= _without_epsilon(tensors)
        said += " Its batch norms have no epsilon: their scales make up for ours."
    tensors = _placed(network, tensors)
    own = network.state_dict()
    for name in ("roi.cls", "roi.box", "mask.cls", "head.predictors.one2many.cls"):
        if f"{name}.weight" in own and f"{name}.weight" in tensors:
            said += _choose_classes(network, tensors, name)
    heads = [name for name in own if name in tensors and name.split(".")[0] in ("rpn", "roi", "mask", "head")]
    parts = ["backbone", "neck", *dict.fromkeys(".".join(name.split(".")[:2]) for name in heads)]
    result = copy_weights(network, Source(tensors, source.origin), parts, whole=("backbone",))
    if isinstance(network, TwoStageDetector) and heads and network.rpn.anchors.rule != "torchvision":
        said += " It was trained with RPNHead.torchvision() and RoIHead.torchvision(), which this network is not."
    return f"{result}{said}"


def _placed(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that mean the same in this network: pyramid levels by their stride, heads of the same kind."""
    own = network.state_dict()
    first_theirs = 0 if any(name.startswith("rpn.") for name in tensors) else 1
    first_ours = 0 if isinstance(network, TwoStageDetector) else 1
    norm, box = "head.cls_towers.shared.layers.1.weight", "head.predictors.one2many.box.weight"
    like_box = box in own and box in tensors and own[box].shape == tensors[box].shape
    other: list[str] = []
    if (norm in own) != (norm in tensors):
        other += ["head.cls_towers.", "head.box_towers."]
    if not like_box:
        other.append("head.predictors.")
    if not isinstance(getattr(network, "roi", None), BoxHead):
        other.append("roi.box.")
    found = {}
    for name, tensor in tensors.items():
        if block := re.match(r"neck\.pyramid\.(inner|layer)_blocks\.(\d)(\..*)$", name):
            name = f"neck.pyramid.{block[1]}_blocks.{int(block[2]) + first_theirs - first_ours}{block[3]}"
        if not name.startswith(tuple(other)):
            found[name] = tensor
    return found


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    norms = "head.classification_head.conv.0.1.weight" in tensors
    for name, tensor in tensors.items():
        renamed = _tower(name, norms)
        for pattern, ours in _RENAMED:
            renamed, count = re.subn(f"^{pattern}", ours, renamed)
            if count:
                break
        found[renamed] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def _tower(name: str, norms: bool) -> str:
    """RetinaNet's towers and predictors; of the v2 each convolution is followed by a norm."""
    match = re.match(r"head\.(classification|regression)_head\.(conv|cls_logits|bbox_reg)\.(.*)$", name)
    if match is None:
        return name
    kind, rest = ("cls" if match[1] == "classification" else "box"), match[3].split(".")
    if match[2] != "conv":
        return f"head.predictors.one2many.{kind}.{rest[-1]}"
    # Old files count convolutions and activations alike, as we do; new ones have a number for each block.
    layer = int(rest[0]) if len(rest) == 2 else int(rest[0]) * (3 if norms else 2) + int(rest[1])
    return f"head.{kind}_towers.shared.layers.{layer}.{rest[-1]}"


def _without_epsilon(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales with which a batch norm of epsilon 1e-5 computes what these do with none."""
    found = {}
    for name, variance in tensors.items():
        if name.endswith(".running_var"):
            scale = name.removesuffix("running_var") + "weight"
            found[scale] = tensors[scale] * ((variance + 1e-5) / variance).sqrt()
    return found


def _choose_classes(network: nn.Module, tensors: dict[str, Tensor], name: str) -> str:
    """Puts the rows of a predictor into our order, or takes them out of the tensors; half a sentence."""
    own, dense = network.state_dict()[f"{name}.weight"], name.startswith("head.")
    weight = tensors[f"{name}.weight"]
    per_class = 4 if name == "roi.box" else 1
    anchors = len(tensors["head.predictors.one2many.box.bias"]) // 4 if dense else 1
    theirs = len(weight) // anchors // per_class
    background = 1 if name == "roi.cls" else 0
    ours = len(own) // anchors // per_class - background
    if weight.shape[1:] != own.shape[1:]:
        rows = []
    elif dense and theirs == ours:
        rows = list(range(ours))  # a network that also has torchvision's unused class 0
    elif theirs - 1 == ours:
        rows = list(range(1, theirs))
    elif theirs == 91 and ours == len(COCO_ROWS):
        rows = COCO_ROWS
    else:
        rows = []
    if not rows:
        for kind in ("weight", "bias"):
            del tensors[f"{name}.{kind}"]
        return (f" {name} starts anew: the file has {theirs - 1} classes with weights {list(weight.shape[1:])} each, "
                f"the network {ours} with {list(own.shape[1:])}.")
    index = torch.tensor(rows + [0] * background)
    for kind in ("weight", "bias"):
        tensor = tensors[f"{name}.{kind}"]
        shaped = tensor.reshape(anchors, theirs, per_class, *tensor.shape[1:])
        tensors[f"{name}.{kind}"] = shaped[:, index].flatten(0, 2)
    return f" {name}: {len(rows)} classes, in the file's order."
