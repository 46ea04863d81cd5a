"""bifocals predict WORKDIR IMAGE|DIR..."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro

from bifocals.data import eval_transform
from bifocals.predict import MERGE_NMS, predict
from bifocals.train import load

from .options import parse_device, parse_nms, parse_views
from .segmenting import parse_map_views, predict_segmenter, refuse


def run(argv: list[str]) -> int:
    tyro.cli(predict_run, args=argv, prog="bifocals predict")
    return 0


def predict_run(
    workdir: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    out: Path | None = None,
    score: float = 0.3,
    output: str = "",
    nms: str = "default",
    tta: bool = False,
    tta_shorts: tuple[int, ...] = (),
    tta_scales: tuple[float, ...] = (),
    tta_flip: bool = False,
    window_hw: tuple[int, int] | None = None,
    weights: Literal["best", "last"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:
    """Finds objects in pictures: draws them, and writes results.json (COCO results) and images.json. A segmenter paints
    the class of each pixel over the picture, and writes the label maps.

    Args:
        workdir: A work directory of bifocals train.
        images: Pictures, and folders of pictures.
        out: Folder of the results; WORKDIR/predictions where none is named.
        score: Detections above this score are drawn; results.json holds all of them.
        output: The output of the network, one2one or one2many; the one for inference where none is named.
        nms: none, or the IoU of the non-maximum suppression; what the recipe says where it is not given.
        tta: Look at .6, .8, 1, 1.2, 1.4 and 1.6 times the run's own size, and merge what that gives by an NMS, .6
            where the output has none. A segmenter averages .5, .75, 1, 1.25, 1.5 and 1.75 times its size.
        tta_shorts: Short sides in pixels in place of those.
        tta_scales: Of a segmenter, factors on its own size in place of those.
        tta_flip: Also look at each size mirrored.
        window_hw: A segmenter looks at overlapping windows of this height and width.
        weights: best or last; the best where there are any.
        device: auto, cpu or cuda.
        precision: Arithmetic of the network.
    """
    if not images:
        raise ValueError("bifocals predict expected pictures or folders after the work directory, got none.")
    trained = load(workdir, weights)
    output = output or trained.experiment.output
    if output not in trained.experiment.postprocess:
        raise ValueError(f"bifocals predict expected an output of {sorted(trained.experiment.postprocess)}, "
                         f"got {output!r}.")
    folder = out or workdir / "predictions"
    if trained.experiment.task == "segment":
        refuse("predict", trained, {"nms": nms != "default", "tta-shorts": bool(tta_shorts)})
        return predict_segmenter(
            trained, images, folder, output=output, views=parse_map_views(tta, tta_scales, tta_flip, window_hw),
            device=parse_device(device), precision=precision,
        )
    refuse("predict", trained, {"tta-scales": bool(tta_scales), "window-hw": window_hw is not None})
    postprocess = trained.experiment.postprocess[output]
    suppression = parse_nms(nms)
    if suppression != "default":
        postprocess = replace(postprocess, nms=suppression)
    views = parse_views(trained.experiment.input, tta, tta_shorts, tta_flip)
    found = predict(
        trained.network,
        images,
        transform=eval_transform(trained.experiment.input),
        views=views,
        postprocess=postprocess,
        output=output,
        classes=trained.classes,
        category_ids=trained.category_ids,
        out=folder,
        score=score,
        device=parse_device(device),
        precision=precision,
    )
    shown = sum(len(p.detections.above(score)) for p in found.pictures)
    if views is not None and postprocess.nms is None:
        print(f"NMS {MERGE_NMS:g} merged the {len(views.sizes)} sizes; a single look at this output needs none")
    print(f"{len(found.pictures)} pictures, {shown} objects above {score:g}, {len(found.skipped)} files skipped: "
          f"{folder}")
