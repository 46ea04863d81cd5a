"""Replays the priors and the coding of boxes against them."""

from __future__ import annotations

import torch

from bifocals.structures import Anchors, DeltaCoder, clip_boxes, inside_canvas, make_points

from .case import Case


def points(case: Case) -> None:
    sizes = [tuple(s) for s in case.input("feature_sizes").tolist()]
    priors = make_points(sizes, case.input("strides").tolist(), float(case.input("offset")))
    for i, level in enumerate(priors.points.split(priors.level_sizes)):
        case.check(f"points_{i}", level)


def anchors(case: Case) -> None:
    hyper = case.hyper
    if "scales" in hyper:
        (scale,) = hyper["scales"]
        make = Anchors(float(scale), 1, tuple(map(float, hyper["ratios"])))
    else:
        ratios = tuple(map(float, hyper["ratios"]))
        make = Anchors(float(hyper["octave_base_scale"]), hyper["scales_per_octave"], ratios)
    sizes = [tuple(s) for s in case.input("feature_sizes").tolist()]
    priors = make.at(make_points(sizes, case.input("strides").tolist()))
    valid = inside_canvas(priors, tuple(case.input("valid_pad_shape").tolist()))
    for i, level in enumerate(priors.boxes.split(priors.level_sizes)):
        case.check(f"base_anchors_{i}", level[: len(make)])  # the first cell's center is (0, 0)
        case.check(f"anchors_{i}", level)
        case.check(f"valid_{i}", valid.split(priors.level_sizes)[i].long())


def legacy(case: Case) -> None:
    """The first releases count a box's last pixel: their x2 and y2 are one smaller than ours."""
    hyper, strides = case.hyper, case.input("strides").tolist()
    (scale,) = {size / stride for size, stride in zip(hyper["sizes"], strides, strict=True)}
    assert hyper["octave"] == 2
    make = Anchors(scale, hyper["scales_per_octave"], tuple(map(float, hyper["ratios"])), offset=0.5, rounded=True)
    priors = make.at(make_points([tuple(s) for s in case.input("feature_sizes").tolist()], strides))
    for i, level in enumerate(priors.boxes.split(priors.level_sizes)):
        case.check(f"anchors_{i}", level - torch.tensor([0.0, 0.0, 1.0, 1.0]))


def deltas(case: Case) -> None:
    hyper = case.hyper
    assert not any(hyper["target_means"])
    limit = float(hyper["ctr_clamp"]) if hyper.get("add_ctr_clamp") else None
    coder = DeltaCoder(tuple(hyper["target_stds"]), 1 / hyper["wh_ratio_clip"], limit)
    boxes, targets = case.input("anchors"), case.input("gts")
    encoded = coder.encode(boxes, targets)
    case.check("encoded", encoded)
    decoded = coder.decode(boxes, case.input("deltas"))
    case.check("decoded", decoded, "boxes")
    clips = hyper.get("clip_border", True)
    shape = tuple(case.input("max_shape").tolist())
    case.check("decoded_clip", clip_boxes(decoded, shape) if clips else decoded, "boxes")
    case.check("roundtrip", coder.decode(boxes, encoded), "boxes")
