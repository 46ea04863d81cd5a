"""bifocals evaluate WORKDIR"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bifocals.data import eval_transform, open_split
from bifocals.evaluate import CrowdMetrics, crowd_metrics, evaluate, voc_metrics
from bifocals.predict import of_output
from bifocals.train import Trained, load

from .options import parse_device, parse_nms, parse_views, shipped
from .segmenting import evaluate_segmenter, parse_map_views, refuse


def run(argv: list[str]) -> int:
    tyro.cli(evaluate_run, args=argv, prog="bifocals evaluate")
    return 0


def evaluate_run(
    workdir: tyro.conf.Positional[Path],
    split: Literal["train", "val", "test"] = "test",
    data_root: Annotated[str, tyro.conf.arg(name="data.root")] = "",
    output: str = "",
    nms: str = "default",
    max_detections: int | None = None,
    crowd: bool = False,
    voc: bool = False,
    analysis: bool = False,
    tta: bool = False,
    tta_shorts: tuple[int, ...] = (),
    tta_scales: tuple[float, ...] = (),
    tta_flip: bool = False,
    window_hw: tuple[int, int] | None = None,
    weights: Literal["best", "last"] | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 4,
    workers: int = 2,
    save: Path | None = None,
) -> None:
    """Prints COCO's 12 numbers of a trained run, per class, with the duplicate rate; of a segmenter mIoU. An output
    that needs no NMS is also shown with it, beside the run's other output with NMS of its own, and judged: NMS-free
    safe, or not yet, with the interval behind the verdict (a bootstrap over images).

    Args:
        workdir: A work directory of bifocals train.
        split: The part of the set; where there is no test split, name val.
        data_root: Another folder than the one of the training.
        output: The output of the network, one2one or one2many; the one for inference where none is named.
        nms: none, or the IoU of the non-maximum suppression; what the recipe says where it is not given.
        max_detections: The most of an image that are kept, in place of what the recipe says; 500 for CrowdHuman.
        crowd: Also CrowdHuman's numbers: AP50, log-average miss rate, recall and Jaccard index.
        voc: Also Pascal VOC's AP at IoU .5, by 11 points and by area, difficult objects left out.
        analysis: Also what AP does not say: areas under precision-recall curves with one kind of error after another
            forgiven (localization, class, background), and before NMS the share of found objects that NMS keeps and
            the rank correlation of score and IoU.
        tta: Multi-scale test: .6, .8, 1, 1.2, 1.4 and 1.6 times the run's own size, merged by one NMS.
            A segmenter averages .5, .75, 1, 1.25, 1.5 and 1.75 times its size.
        tta_shorts: Short sides in pixels in place of those.
        tta_scales: Of a segmenter, factors on its own size in place of those.
        tta_flip: Also look at each size mirrored.
        window_hw: A segmenter looks at overlapping windows of this height and width.
        weights: best or last; the best where there are any.
        device: auto, cpu or cuda.
        precision: Arithmetic of the network.
        batch_size: Images at a time.
        workers: Loader processes.
        save: A file for all numbers as JSON; WORKDIR/evaluation-SPLIT-OUTPUT-NMS.json where none is named, with -tta
            before the dot for such a test.
    """
    trained = load(workdir, weights)
    experiment = trained.experiment
    output, suppression = output or experiment.output, parse_nms(nms)
    if experiment.task == "segment":
        refuse("evaluate", trained, {"nms": nms != "default", "max-detections": max_detections is not None,
                                     "crowd": crowd, "voc": voc, "analysis": analysis, "tta-shorts": bool(tta_shorts)})
        return evaluate_segmenter(
            trained, data_of(trained, data_root), split, output=output, device=parse_device(device),
            views=parse_map_views(tta, tta_scales, tta_flip, window_hw), precision=precision, batch_size=batch_size,
            workers=workers, save=save,
        )
    refuse("evaluate", trained, {"tta-scales": bool(tta_scales), "window-hw": window_hw is not None})
    annotations = open_split(data_of(trained, data_root), split, classes=trained.classes, masks=experiment.masks)
    if crowd:
        crowd_metrics({}, annotations)  # what it cannot work with is said before the network runs
    chosen = of_output(experiment.postprocess, output, "bifocals evaluate")
    views = parse_views(experiment.input, tta, tta_shorts, tta_flip)
    free = views is None and (chosen.nms if suppression == "default" else suppression) is None
    network = trained.network
    if not free:
        network = shipped(network, output)  # timed is what would be shipped
    found = evaluate(
        network,
        annotations,
        transform=eval_transform(experiment.input),
        postprocess=experiment.postprocess,
        output=output,
        nms=suppression,
        max_detections=max_detections,
        trust=free,
        views=views,
        analysis=analysis,
        device=parse_device(device),
        precision=precision,
        batch_size=batch_size,
        workers=workers,
    )
    print(found.summary())
    record = {"split": split, "weights": trained.weights, "step": trained.step, **found.to_json()}
    if crowd:
        rows = {name: crowd_metrics(detections, annotations) for name, (_, detections) in found.rows().items()}
        print(crowd_table(rows))
        record["crowd"] = {name: metrics.to_json() for name, metrics in rows.items()}
    if voc:
        judged = {name: voc_metrics(detections, annotations) for name, (_, detections) in found.rows().items()}
        for name, metrics in judged.items():
            print(f"{name}: {metrics.summary(annotations.classes)}")
        record["voc"] = {name: metrics.to_json(annotations.classes) for name, metrics in judged.items()}
    path = save or workdir / f"evaluation-{split}-{output}-{nms}{'' if views is None else '-tta'}.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf8")
    print(f"saved {path}")


def crowd_table(rows: Mapping[str, CrowdMetrics]) -> str:
    """CrowdHuman's numbers of each row, a small table for a terminal."""
    columns = {"AP50": "ap50", "mMR": "mmr", "recall": "recall", "JI": "jaccard"}
    width = max(map(len, [*rows, "CrowdHuman"]))
    lines = [f"{'CrowdHuman':<{width}}" + "".join(f"{head:>8}" for head in columns)]
    for name, metrics in rows.items():
        values = [getattr(metrics, field) for field in columns.values()]
        lines.append(f"{name:<{width}}" + "".join(f"{'-' if math.isnan(v) else f'{v:.4f}':>8}" for v in values))
    return "\n".join(lines)


def data_of(trained: Trained, root: str) -> Any:
    """The data of a run, from another folder where one is named."""
    return replace(trained.experiment.data, root=root) if root else trained.experiment.data
