"""Duplicates: each reading of the definition by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bifocals.evaluate import duplicate_rate
from bifocals.structures import Detections
from tests.evaluate.by_hand import annotated, found

BOX = [0.0, 0.0, 100.0, 100.0]
NEAR = [0.0, 0.0, 100.0, 90.0]  # IoU with BOX .9
FAR = [200.0, 200.0, 300.0, 300.0]


def rate(rows: list[tuple[list[float], float, int]], objects: list[list[float]], **settings: object) -> float:
    crowd = settings.pop("crowd", None)
    annotations = annotated([(0, box, 0) for box in objects], num_classes=2, crowd=crowd)
    return duplicate_rate({0: found(*rows)}, annotations, **settings)  # type: ignore[arg-type]


def test_the_second_detection_of_an_object_is_a_duplicate() -> None:
    assert rate([(BOX, 0.9, 0), (NEAR, 0.8, 0)], [BOX]) == 0.5
    assert rate([(NEAR, 0.8, 0), (BOX, 0.9, 0)], [BOX]) == 0.5  # whatever the order in the list
    assert rate([(BOX, 0.9, 0), (NEAR, 0.8, 0), (NEAR, 0.7, 0), (FAR, 0.6, 0)], [BOX]) == 0.5


def test_two_objects_that_overlap_are_no_duplicates() -> None:
    assert rate([(BOX, 0.9, 0), (NEAR, 0.8, 0)], [BOX, NEAR]) == 0


def test_a_wrong_detection_beside_nothing_is_no_duplicate() -> None:
    assert rate([(BOX, 0.9, 0), (FAR, 0.8, 0)], [BOX]) == 0


def test_only_the_same_class_and_only_detections_above_the_score_count() -> None:
    assert rate([(BOX, 0.9, 0), (NEAR, 0.8, 1)], [BOX]) == 0
    assert rate([(BOX, 0.9, 0), (NEAR, 0.3, 0)], [BOX]) == 0
    assert rate([(BOX, 0.9, 0), (NEAR, 0.31, 0)], [BOX]) == 0.5
    assert rate([(BOX, 0.2, 0), (NEAR, 0.1, 0)], [BOX]) == 0
    assert rate([(BOX, 0.2, 0), (NEAR, 0.1, 0)], [BOX], score=0.05) == 0.5


def test_an_overlap_must_exceed_the_limit() -> None:
    other = [0.0, 0.0, 100.0, 60.0]
    assert rate([(BOX, 0.9, 0), (other, 0.8, 0)], [BOX]) == 0  # IoU .6 exactly
    assert rate([(BOX, 0.9, 0), (other, 0.8, 0)], [BOX], overlap=0.59) == 0.5


def test_the_better_one_may_be_wrong_itself() -> None:
    assert rate([(BOX, 0.9, 0), (NEAR, 0.8, 0)], []) == 0.5
    # Here the worse one is the one that has the object: no duplicate, and the wrong one is the best.
    tall = [0.0, 0.0, 100.0, 150.0]
    assert rate([(tall, 0.9, 0), (BOX, 0.8, 0)], [[0.0, 0.0, 100.0, 70.0]]) == 0


def test_of_equal_scores_the_first_is_the_better_one() -> None:
    assert rate([(BOX, 0.5, 0), (NEAR, 0.5, 0), (FAR, 0.5, 0)], [BOX]) == pytest.approx(1 / 3)


def test_a_detection_in_a_crowd_is_left_out() -> None:
    crowd = [0.0, 0.0, 400.0, 400.0]
    rows = [(BOX, 0.9, 0), (NEAR, 0.8, 0), ([500.0, 0, 600, 100], 0.7, 0)]
    assert rate(rows, [BOX, crowd], crowd=[False, True]) == 0
    assert rate(rows, [BOX], crowd=[False]) == pytest.approx(1 / 3)
    twice = [*rows, ([500.0, 0, 600, 95], 0.6, 0)]
    assert rate(twice, [BOX, crowd], crowd=[False, True]) == pytest.approx(1 / 3)  # of the three outside the crowd


def test_images_are_counted_together_and_do_not_mix() -> None:
    annotations = annotated([(0, BOX, 0), (2, BOX, 0)], num_images=3)
    detections = {0: found((BOX, 0.9, 0)), 1: Detections.empty(), 2: found((BOX, 0.8, 0), (NEAR, 0.7, 0))}
    assert duplicate_rate(detections, annotations) == pytest.approx(1 / 3)
    assert duplicate_rate({}, annotations) == 0


def test_many_images_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows, detections = [], {}
    for image in range(60):
        objects = [(image, [*c, *(c + s)], int(k)) for c, s, k in
                   zip(rng.integers(0, 60, (5, 2)), rng.integers(10, 40, (5, 2)), rng.integers(0, 2, 5), strict=True)]
        rows += objects
        near = [(list(np.array(objects[j][1]) + rng.integers(-3, 4, 4)), float(rng.random()), objects[j][2])
                for j in rng.integers(0, 5, 12)]
        detections[image] = found(*near)
    annotations = annotated(rows, num_images=60, num_classes=2)
    assert duplicate_rate(detections, annotations) == pytest.approx(plain_rate(detections, rows), abs=1e-12)


def plain_rate(detections: dict[int, Detections], rows: list[tuple[int, list[float], int]]) -> float:
    def iou(a: list[float], b: list[float]) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inside = max(w, 0) * max(h, 0)
        return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)

    repeated = counted = 0
    for image, of_image in detections.items():
        listed = zip(of_image.boxes.tolist(), of_image.scores.tolist(), of_image.labels.tolist(), strict=True)
        ranked = sorted((row for row in listed if row[1] > 0.3), key=lambda row: -row[1])
        objects = [row for row in rows if row[0] == image]
        taken: set[int] = set()
        for n, (box, _, label) in enumerate(ranked):
            free = [(iou(box, o[1]), j) for j, o in enumerate(objects) if o[2] == label and j not in taken]
            best = max(free, default=(0.0, -1))
            if best[0] >= 0.5:
                taken.add(best[1])
            elif any(iou(box, other) > 0.6 and kind == label for other, _, kind in ranked[:n]):
                repeated += 1
            counted += 1
    return repeated / counted
