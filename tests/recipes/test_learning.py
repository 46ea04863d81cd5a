"""Every recipe takes two steps on drawn shapes, and learns a handful of images by heart."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifocals.cli.find import recipe_names
from bifocals.data import Annotations, Data, Input, PackedStrings, eval_transform, open_split, save_coco
from bifocals.evaluate import evaluate
from bifocals.networks import Backbone, Depression, Towers
from bifocals.recipes import (
    atss,
    date,
    defcn,
    double_head_rcnn,
    dynamic_rcnn,
    faster_rcnn,
    fcos,
    freeanchor,
    hcral,
    libra_rcnn,
    mal,
    mask_rcnn,
    onenet,
    retinanet,
)
from bifocals.recipes.mask_rcnn import Masks
from bifocals.train import Experiment, Optim, Provenance, Run, fit, load, read_log

RECIPES = {
    "atss": atss, "date": date, "defcn": defcn, "double_head_rcnn": double_head_rcnn, "dynamic_rcnn": dynamic_rcnn,
    "faster_rcnn": faster_rcnn, "fcos": fcos, "freeanchor": freeanchor, "hcral": hcral, "libra_rcnn": libra_rcnn,
    "mal": mal, "mask_rcnn": mask_rcnn, "onenet": onenet, "retinanet": retinanet,
}
COLORS = ((220, 60, 40), (40, 90, 220))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Eight pictures of two or three bright rectangles on gray noise; the color is the class. train is val."""
    folder = tmp_path_factory.mktemp("shapes")
    draw = np.random.default_rng(0)
    boxes, labels, counts = [], [], []
    for i in range(8):
        picture = draw.integers(90, 150, (96, 96, 3)).astype(np.uint8)
        for k in range(2 + i % 2):
            label = int(draw.integers(2))
            width, height = draw.integers(20, 40, 2)
            x = int(draw.integers(0, 96 - width)) if k else 4
            y = (4, 50, 8)[k]
            x = (4, x, 54)[k]
            box = [x, y, min(x + int(width), 95), min(y + int(height), 95)]
            picture[box[1] : box[3], box[0] : box[2]] = COLORS[label]
            boxes.append(box)
            labels.append(label)
        counts.append(2 + i % 2)
        Image.fromarray(picture).save(folder / f"{i}.png")
    made = Annotations(
        root=folder, files=PackedStrings.pack([f"{i}.png" for i in range(8)]), image_ids=np.arange(8),
        sizes_hw=np.full((8, 2), 96, dtype=np.int32), offsets=np.cumsum([0, *counts]),
        boxes=np.array(boxes, dtype=np.float64), labels=np.array(labels), crowd=np.zeros(len(labels), dtype=bool),
        area=np.array([(b[2] - b[0]) * (b[3] - b[1]) for b in boxes], dtype=np.float64), classes=("red", "blue"),
        category_ids=(1, 2),
    )
    outlines = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]  # of rectangles: their own boxes
    save_coco(made, folder / "train.json", outlines)
    save_coco(made, folder / "val.json", outlines)
    return folder


# Recipes whose network has no towers, but a width of the pyramid.
TWO_STAGE = ("double_head_rcnn", "dynamic_rcnn", "faster_rcnn", "libra_rcnn", "mask_rcnn")


def settings(name: str, folder: Path, steps: int, lr: float = 1e-3) -> dict:
    size: dict = {"towers": Towers(64, 1)}
    if name in TWO_STAGE:
        rpn, roi = (inspect.signature(RECIPES[name]).parameters[n].default for n in ("rpn", "roi"))
        size = {"channels": 64, "rpn": replace(rpn, train_proposals=100), "roi": replace(roi, samples=64, width=128)}
    return size | {
        "backbone": Backbone("resnet18", "pytorch", weights="none"),
        "input": Input(96, 96, augment="none"),
        "data": Data(str(folder)),
        "optim": Optim(lr=lr, batch_size=4, backbone_lr_factor=1, warmup_steps=5, clip_norm=1.0, schedule="cosine"),
        "epochs": steps * 4 / 8,
    }


def test_every_recipe_is_tried():
    segmenters = {"bisenet"}  # test_bisenet.py
    assert set(RECIPES) | segmenters == set(recipe_names())


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, shapes: Path, tmp_path: Path):
    arguments = settings(name, shapes, steps=2)
    run = Run(str(tmp_path / "run"), workers=0, log_every=1, device="cpu")
    workdir = fit(RECIPES[name](**arguments), run, Provenance(f"bifocals.recipes.{name}:{name}", arguments))
    steps = [r for r in read_log(workdir) if r["kind"] == "train"]
    assert [r["step"] for r in steps] == [1, 2]
    assert all(np.isfinite(list(r["raw"].values())).all() for r in steps)
    trained = load(workdir)
    assert trained.classes == ("red", "blue")
    assert trained.experiment.output in trained.network.outputs


# One of each kind in the default suite: two branches on points, a dense assignment, bags of anchors.
QUICK = ("date", "fcos", "mal")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_learns_by_heart(name: str, shapes: Path, tmp_path: Path):
    # The first FCOS learns box sizes slowly (exp of pixels, -log IoU): its later form fits by heart in as few steps.
    # Features that are depressed for half of the run leave the last pixels of a box to more steps than these.
    special = {"fcos": {"tricks": True}, "mal": {"depression": Depression("none")},
               "mask_rcnn": {"masks": Masks(64, 1)}}
    arguments = settings(name, shapes, steps=150) | special.get(name, {})
    experiment: Experiment = RECIPES[name](**arguments)
    run = Run(str(tmp_path / "run"), workers=0, log_every=20, eval_every=0, save_every=1000, device="cpu")
    workdir = fit(experiment, run, Provenance(f"bifocals.recipes.{name}:{name}", arguments))
    trained = load(workdir, "last")
    found = evaluate(
        trained.network, open_split(experiment.data, "val", log=None), transform=eval_transform(experiment.input),
        postprocess=experiment.postprocess, output=experiment.output, batch_size=8,
    )
    assert found.ap > 0.9, found.summary()
    if found.nms is None:
        assert abs(found.with_nms.ap - found.ap) < 0.05
