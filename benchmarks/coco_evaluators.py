"""Which library computes COCO's box AP: right to 1e-9 and under 6 CPU-seconds on 5,000 images with 500,000 detections.

    python benchmarks/coco_evaluators.py [--images 5000] [--per-image 100] [--json out.json]

Every library runs in a process of its own on the same drawn arrays. The clock starts when the arrays are in memory and
stops when the 12 numbers are there: building the library's own index is part of the price, reading JSON is not.
`ours` is `bifocals.evaluate.average_precision` on packed arrays, per-class AP included. Libraries that are not
installed are named and left out; `pip install pycocotools faster-coco-eval hotcoco` installs all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_CLASSES = 80
LIBRARIES = {
    "pycocotools": "pycocotools",
    "faster-coco-eval": "faster_coco_eval",
    "hotcoco": "hotcoco",
    "ours": "bifocals",
}


@dataclass(frozen=True)
class Arrays:
    """Objects and detections of a drawn set; boxes are xyxy pixels, exact in float32."""

    num_images: int
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    found_image: np.ndarray
    found_label: np.ndarray
    found_box: np.ndarray
    score: np.ndarray


def draw(num_images: int, per_image: int, seed: int = 0) -> Arrays:
    """About 7.4 objects an image, 80 classes of unequal frequency; a third of the detections sit near an object."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, NUM_CLASSES + 1)
    frequency /= frequency.sum()
    counts = rng.poisson(7.4, num_images)
    image = np.repeat(np.arange(num_images), counts)
    total = len(image)
    label = rng.choice(NUM_CLASSES, total, p=frequency)

    def boxes(number: int) -> np.ndarray:
        size = np.exp(rng.uniform(np.log(8), np.log(320), (number, 2)))
        corner = rng.uniform(0, 1, (number, 2)) * (np.array([640, 480]) - np.minimum(size, [600, 440]))
        return np.concatenate([corner, corner + size], axis=1)

    box = boxes(total)
    found_image = np.repeat(np.arange(num_images), per_image)
    number = len(found_image)
    found_box, found_label = boxes(number), rng.choice(NUM_CLASSES, number, p=frequency)
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    near = np.flatnonzero((rng.random(number) < 0.33) & (counts[found_image] > 0))
    source = first[found_image[near]] + (rng.random(len(near)) * counts[found_image[near]]).astype(int)
    size = np.tile(box[source, 2:] - box[source, :2], 2)
    found_box[near] = box[source] + rng.normal(0, 0.08, (len(near), 4)) * size
    found_box[:, 2:] = np.maximum(found_box[:, 2:], found_box[:, :2] + 1)
    keep_label = rng.random(len(near)) < 0.8
    found_label[near[keep_label]] = label[source[keep_label]]
    # Multiples of 1/8 are exact in float32 and as width and height, so that every library sees the same numbers.
    box, found_box = np.round(box * 8) / 8, np.round(found_box * 8) / 8
    sides = box[:, 2:] - box[:, :2]
    return Arrays(
        num_images, image, label, box, rng.random(total) < 0.01, sides.prod(axis=1) * rng.uniform(0.4, 1, total),
        found_image, found_label, found_box, rng.random(number).astype(np.float32).astype(np.float64),
    )


def as_dataset(a: Arrays) -> dict[str, Any]:
    """The objects as COCO's dictionary, for libraries that take no arrays."""
    sides = a.box[:, 2:] - a.box[:, :2]
    xywh = np.concatenate([a.box[:, :2], sides], axis=1).tolist()
    columns = zip(a.image.tolist(), a.label.tolist(), xywh, a.area.tolist(), a.crowd.astype(int).tolist(), strict=True)
    return {
        "info": {},
        "images": [{"id": i, "height": 480, "width": 640, "file_name": ""} for i in range(a.num_images)],
        "categories": [{"id": c, "name": str(c)} for c in range(NUM_CLASSES)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": b, "area": s, "iscrowd": k}
            for n, (i, c, b, s, k) in enumerate(columns)
        ],
    }


def as_results(a: Arrays) -> np.ndarray:
    """The detections as COCO's [N 7] array: image, x, y, width, height, score, category."""
    sides = a.found_box[:, 2:] - a.found_box[:, :2]
    return np.column_stack([a.found_image, a.found_box[:, :2], sides, a.score, a.found_label]).astype(np.float64)


def run_library(name: str, a: Arrays) -> list[float]:
    """COCO's 12 numbers by one library."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO()
        truth.dataset = as_dataset(a)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(as_results(a)), "bbox")
    elif name == "faster-coco-eval":
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster

        truth = FasterCOCO(as_dataset(a))
        evaluation = COCOeval_faster(truth, truth.loadRes(as_results(a)), "bbox", print_function=lambda *_: None)
    elif name == "hotcoco":
        from hotcoco import COCO as HotCOCO
        from hotcoco import COCOeval as HotEval

        sides = a.box[:, 2:] - a.box[:, :2]
        truth = HotCOCO.from_arrays(
            [{"id": i, "height": 480, "width": 640, "file_name": ""} for i in range(a.num_images)],
            [{"id": c, "name": str(c)} for c in range(NUM_CLASSES)],
            a.image, a.label, np.concatenate([a.box[:, :2], sides], axis=1), area=a.area, iscrowd=a.crowd,
        )
        evaluation = HotEval(truth, truth.load_res(as_results(a)), "bbox")
    else:
        from bifocals.evaluate import coco_average_precision

        result = coco_average_precision(
            num_images=a.num_images, num_classes=NUM_CLASSES, object_image=a.image, object_boxes=a.box,
            object_labels=a.label, object_crowd=a.crowd, object_area=a.area, found_image=a.found_image,
            found_boxes=a.found_box, found_labels=a.found_label, found_scores=a.score,
        )
        return list(result.stats.values())
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def child(name: str, num_images: int, per_image: int) -> None:
    arrays = draw(num_images, per_image)
    module = LIBRARIES[name] + (".evaluate" if name == "ours" else "")
    importlib.import_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        stats = run_library(name, arrays)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"stats": stats, "cpu_s": cpu, "wall_s": wall, "peak_mib": peak / 1024,
                      "added_mib": (peak - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="images of the drawn set")
    parser.add_argument("--per-image", type=int, default=100, help="detections of an image")
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--json", help="also write the numbers to this file")
    parser.add_argument("--child", choices=list(LIBRARIES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.images, options.per_image)
        return
    rows = {}
    for name in options.libraries:
        if importlib.util.find_spec(LIBRARIES[name]) is None:
            print(f"{name}: not installed, left out")
            continue
        command = [sys.executable, os.path.abspath(__file__), "--child", name,
                   "--images", str(options.images), "--per-image", str(options.per_image)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    reference = rows.get("pycocotools", {}).get("stats")
    print(f"{options.images} images, {options.images * options.per_image} detections, {os.cpu_count()} cores")
    print(f"{'library':<18}{'CPU-s':>8}{'wall s':>8}{'peak MiB':>10}{'added MiB':>11}{'AP':>10}  largest difference")
    for name, row in rows.items():
        difference = "" if reference is None else f"{np.abs(np.subtract(row['stats'], reference)).max():.1e}"
        print(f"{name:<18}{row['cpu_s']:>8.2f}{row['wall_s']:>8.2f}{row['peak_mib']:>10.0f}"
              f"{row['added_mib']:>11.0f}{row['stats'][0]:>10.6f}  {difference}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"images": options.images, "per_image": options.per_image, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
