"""COCO AP: recorded numbers, numbers that a person can verify, and what does not exist."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from bifocals.data import load_coco
from bifocals.evaluate import AveragePrecision, average_precision, coco_average_precision
from bifocals.evaluate.average_precision import STATS
from tests.evaluate.by_hand import annotated, found

# shared/data/README.md
EVAL_NUMBERS = (.5045806987, .6969727247, .5729816670, .5856257209, .5193996948, .5013978986,
                .3868127796, .5936795763, .5953529829, .6398109627, .5664205979, .5642905983)


def xyxy(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


BOX = [10.0, 10.0, 50.0, 50.0]
AWAY = [60.0, 60.0, 90.0, 90.0]
ONE = pytest.approx(1, abs=1e-12)  # COCO adds an epsilon to the divisor of the precision


@pytest.mark.parametrize("case", ["coco_ap", "coco_ap_dense"])
def test_golden(shared: Path, case: str) -> None:
    d = np.load(shared / "golden" / "metrics" / f"{case}.npz")
    result = coco_average_precision(
        num_images=len(d["image_hw"]), num_classes=len(d["ap_per_class"]), object_image=d["gt_image"],
        object_boxes=xyxy(d["gt_xywh"]), object_labels=d["gt_label"], object_crowd=d["gt_iscrowd"].astype(bool),
        object_area=d["gt_area"], found_image=d["det_image"], found_boxes=xyxy(d["det_xywh"]),
        found_labels=d["det_label"], found_scores=d["det_score"],
    )
    assert list(result.stats) == list(STATS)
    np.testing.assert_allclose(list(result.stats.values()), d["stats"], atol=1e-6)
    np.testing.assert_allclose(result.class_ap, d["ap_per_class"], atol=1e-6)
    np.testing.assert_allclose(result.class_ap50, d["ap50_per_class"], atol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(result.precision[:, ::10], nan=-1), d["precision_all"], atol=1e-6)
    np.testing.assert_allclose(result.recall, d["recall_all"], atol=1e-6)


def test_real_annotations_with_crowd_and_areas_of_masks(shared: Path) -> None:
    folder = shared / "data" / "eval"
    annotations = load_coco(folder / "instances_val2014_100.json", folder)
    label = {category: i for i, category in enumerate(annotations.category_ids)}
    by_image: dict[int, list[tuple[list[float], float, int]]] = {}
    for r in json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()):
        row = (xyxy(r["bbox"])[0].tolist(), r["score"], label[r["category_id"]])
        by_image.setdefault(r["image_id"], []).append(row)
    assert len(by_image) < len(annotations)  # an image without detections counts
    result = average_precision({i: found(*rows) for i, rows in by_image.items()}, annotations)
    np.testing.assert_allclose(list(result.stats.values()), EVAL_NUMBERS, atol=2e-10)


def test_equal_to_pycocotools_on_drawn_sets() -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(1)
    number, images = 300, 40
    image, label = np.sort(rng.integers(images, size=number)), rng.integers(6, size=number)
    corner = rng.integers(0, 800, (number, 2)) / 8
    box = np.concatenate([corner, corner + rng.integers(8, 800, (number, 2)) / 8], axis=1)
    crowd, area = rng.random(number) < 0.1, rng.uniform(10, 20000, number)
    source = rng.integers(number, size=1500)
    near = box[source] + rng.integers(-40, 41, (1500, 4)) / 8
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    score = rng.integers(1, 60, 1500) / 64  # many equal scores
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(images)], "categories": [{"id": c} for c in range(7)],
        "annotations": [{"id": n + 1, "image_id": int(image[n]), "category_id": int(label[n]), "iscrowd": int(crowd[n]),
                         "bbox": [*box[n, :2], *(box[n, 2:] - box[n, :2])], "area": area[n]} for n in range(number)],
    }
    truth.createIndex()
    rows = np.column_stack([image[source], near[:, :2], near[:, 2:] - near[:, :2], score, label[source]])
    reference = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    result = coco_average_precision(
        num_images=images, num_classes=7, object_image=image, object_boxes=box, object_labels=label, object_crowd=crowd,
        object_area=area, found_image=image[source], found_boxes=near, found_labels=label[source], found_scores=score,
    )
    np.testing.assert_allclose(list(result.stats.values()), reference.stats, rtol=0, atol=1e-12)


def test_an_image_without_detections_counts() -> None:
    annotations = annotated([(0, BOX, 0), (1, BOX, 0)])
    result = average_precision({0: found((BOX, 0.9, 0))}, annotations)
    assert result.stats["AR100"] == 0.5
    assert result.stats["AP"] == pytest.approx(51 / 101)  # recall points 0, .01, ..., .50
    assert average_precision({0: found((BOX, 0.9, 0)), 1: found((BOX, 0.2, 0))}, annotations).stats["AP"] == ONE


def test_a_wrong_detection_before_a_right_one_costs_half() -> None:
    annotations = annotated([(0, BOX, 0)])
    assert average_precision({0: found((AWAY, 0.9, 0), (BOX, 0.8, 0))}, annotations).stats["AP"] == pytest.approx(0.5)
    assert average_precision({0: found((BOX, 0.9, 0), (AWAY, 0.8, 0))}, annotations).stats["AP"] == ONE


def test_iou_thresholds() -> None:
    annotations = annotated([(0, BOX, 0)])
    result = average_precision({0: found(([10, 10, 50, 41], 0.9, 0))}, annotations)  # IoU 31 / 40 = .775
    assert (result.stats["AP50"], result.stats["AP75"], result.stats["AP"]) == pytest.approx((1, 1, 0.6))


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong() -> None:
    rows = [(0, BOX, 0), (0, [55.0, 55, 95, 95], 0)]
    detections = {0: found((AWAY, 0.9, 0), ([56, 56, 80, 80], 0.85, 0), (BOX, 0.8, 0))}
    assert average_precision(detections, annotated(rows, crowd=[False, True])).stats["AP"] == ONE
    assert average_precision(detections, annotated(rows[:1])).stats["AP"] == pytest.approx(1 / 3)


def test_the_given_area_decides_the_size_of_an_object() -> None:
    annotations = annotated([(0, BOX, 0)], area=[500.0])  # the box has 1600
    result = average_precision({0: found((BOX, 0.9, 0))}, annotations)
    assert (result.stats["APs"], result.stats["AR100"]) == (ONE, 1)
    assert math.isnan(result.stats["APm"])


def test_what_does_not_exist_is_nan() -> None:
    nothing = annotated([], num_classes=2)
    for detections in ({}, {0: found((BOX, 0.9, 0))}):
        result = average_precision(detections, nothing)
        assert all(math.isnan(value) for value in result.stats.values())
        assert np.isnan(result.class_ap).all()
    assert result.to_json(("a", "b"))["AP"] is None
    # A class without objects is left out of the mean, even if it is detected.
    result = average_precision({0: found((BOX, 0.9, 0), (BOX, 0.9, 1))}, annotated([(0, BOX, 0)], num_classes=2))
    assert result.ap == result.class_ap[0] == ONE
    assert math.isnan(result.class_ap[1])
    assert result.to_json(("a", "b"))["per_class"] == {"a": {"AP": ONE, "AP50": ONE}, "b": {"AP": None, "AP50": None}}
    # Objects without any detection are AP 0, not NaN. A crowd region alone is no object.
    assert average_precision({}, annotated([(0, BOX, 0)])).stats["AP"] == 0
    assert math.isnan(average_precision({}, annotated([(0, BOX, 0)], crowd=[True])).stats["AP"])


def test_at_most_100_detections_of_an_image_and_class_count() -> None:
    annotations = annotated([(0, BOX, 0)])
    rows = [(AWAY, 0.9 - i / 1000, 0) for i in range(100)] + [(BOX, 0.1, 0)]
    assert average_precision({0: found(*rows)}, annotations).stats["AP"] == 0
    assert average_precision({0: found(*rows)}, annotations, max_detections=300).stats["AR100"] == 1


def test_equal_scores_in_two_images_go_by_image_id_as_in_pycocotools() -> None:
    detections = {5: found((AWAY, 0.5, 0)), 9: found((BOX, 0.5, 0))}
    first_wrong = annotated([(0, BOX, 0), (1, BOX, 0)], image_ids=[5, 9])
    reordered = annotated([(0, BOX, 0), (1, BOX, 0)], image_ids=[9, 5])
    assert average_precision(detections, first_wrong).stats == average_precision(detections, reordered).stats


def test_the_order_of_the_mapping_does_not_matter() -> None:
    annotations = annotated([(0, BOX, 0), (1, AWAY, 0)])
    rows = {0: found((BOX, 0.9, 0), (AWAY, 0.3, 0)), 1: found((BOX, 0.5, 0), (AWAY, 0.4, 0))}

    def numbers(result: AveragePrecision) -> list[float]:
        return np.nan_to_num(list(result.stats.values()), nan=-1).tolist()

    backwards = {1: rows[1], 0: rows[0]}
    assert numbers(average_precision(rows, annotations)) == numbers(average_precision(backwards, annotations))


def test_detections_that_cannot_be_are_refused() -> None:
    annotations = annotated([(0, BOX, 0)], image_ids=[11, 12])
    with pytest.raises(ValueError, match=r"got \[0\] among 1 images; the first annotated ids are \[11, 12\]"):
        average_precision({0: found((BOX, 0.9, 0))}, annotations)
    with pytest.raises(ValueError, match="image id 12 expected labels below the number of classes, got 1"):
        average_precision({12: found((BOX, 0.9, 1))}, annotations)
    with pytest.raises(ValueError, match=r"image id 12 expected finite .* 1 of 2 detections are not finite"):
        average_precision({11: found((BOX, 0.9, 0)), 12: found(([0, 0, math.nan, 4], 0.9, 0))}, annotations)
