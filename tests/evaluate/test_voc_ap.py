"""Pascal VOC's AP: numbers that a person can verify, published ones, and what does not exist."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bifocals.evaluate import VOCMetrics, voc_metrics
from bifocals.structures import Detections
from tests.evaluate.by_hand import annotated, found

BOX, AWAY, THIRD = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0], [60.0, 10.0, 90.0, 40.0]


def judged(rows: list, detections: dict, **options: object) -> VOCMetrics:
    marks = options.pop("difficult", None)
    annotations = annotated(rows, num_images=options.pop("num_images", 2), num_classes=options.pop("num_classes", 1))
    if marks is not None:
        annotations = replace(annotations, difficult=np.array(marks))
    return voc_metrics(detections, annotations, **options)  # type: ignore[arg-type]


def test_by_hand() -> None:
    """Five objects; right, wrong, right, wrong, right by score: precision 1, 1/2, 2/3, 1/2, 3/5 at recalls to 3/5.

    The best precision from a recall on: 1 up to .2, 2/3 up to .4, 3/5 up to .6, then none. Of the 11 points 0, .1, .2
    have 1, .3 and .4 have 2/3, .5 and .6 have 3/5. The area is .2 (1 + 2/3 + 3/5).
    """
    objects = [[i * 20.0, 0.0, i * 20.0 + 10, 10.0] for i in range(5)]
    wrong = [0.0, 50.0, 10.0, 60.0]
    rows = [(objects[0], 0.9, 0), (wrong, 0.8, 0), (objects[1], 0.7, 0), (wrong, 0.6, 0), (objects[2], 0.5, 0)]
    metrics = judged([(0, box, 0) for box in objects], {0: found(*rows)})
    assert metrics.ap_by_points == pytest.approx((3 * 1 + 2 * (2 / 3) + 2 * 0.6) / 11)
    assert metrics.ap_by_area == pytest.approx(0.2 * (1 + 2 / 3 + 0.6))
    assert metrics.num_objects.tolist() == [5]
    assert metrics.num_detections.tolist() == [5]


def test_a_recall_of_exactly_three_tenths_is_there() -> None:
    """3 of 10 objects and nothing wrong: the points 0 to .3 have precision 1. Points that add up .1 miss the last."""
    rows = [(0, [i * 10.0, 0.0, i * 10.0 + 5, 5.0], 0) for i in range(10)]
    detections = {0: found(*[(box, 0.9, 0) for _, box, _ in rows[:3]])}
    assert judged(rows, detections).ap_by_points == pytest.approx(4 / 11)
    assert judged(rows, detections, points="arange").ap_by_points == pytest.approx(3 / 11)
    assert judged(rows, detections).ap_by_area == pytest.approx(0.3)


def test_an_object_is_found_once() -> None:
    """The better of two is right; the other is wrong, also where another object would be near enough."""
    near = [12.0, 10.0, 52.0, 50.0]
    metrics = judged([(0, BOX, 0)], {0: found((BOX, 0.5, 0), (near, 0.9, 0))})
    assert metrics.ap_by_area == pytest.approx(1)  # right first, then wrong
    second = [20.0, 10.0, 60.0, 50.0]  # IoU .6 with BOX
    metrics = judged([(0, BOX, 0), (0, second, 0)], {0: found((BOX, 0.9, 0), (BOX, 0.8, 0))})
    assert metrics.ap_by_area == pytest.approx(0.5)  # looks at its nearest alone


def test_difficult_objects_are_no_part_of_it() -> None:
    """A detection at a difficult object is neither right nor wrong, however many; the object is in no recall."""
    detections = {0: found((AWAY, 0.99, 0), (AWAY, 0.95, 0), (BOX, 0.9, 0))}
    metrics = judged([(0, BOX, 0), (0, AWAY, 0)], detections, difficult=[False, True])
    assert metrics.ap_by_points == metrics.ap_by_area == 1
    assert metrics.num_objects.tolist() == [1]
    plain = judged([(0, BOX, 0), (0, AWAY, 0)], detections)
    assert plain.ap_by_area == pytest.approx(0.5 + 0.5 * 2 / 3)
    missed = judged([(0, BOX, 0), (0, AWAY, 0)], {0: found((BOX, 0.9, 0))}, difficult=[False, True])
    assert missed.ap_by_area == 1
    crowd = annotated([(0, BOX, 0), (0, AWAY, 0)], crowd=[False, True])
    assert voc_metrics(detections, crowd).ap_by_area == 1


def test_the_nearest_decides_even_if_difficult() -> None:
    """Most overlap with the difficult object, enough with the other: still neither; equally near, the other wins."""
    other = [20.0, 10.0, 60.0, 50.0]
    rows = [(0, BOX, 0), (0, other, 0)]
    assert judged(rows, {0: found((BOX, 0.9, 0))}, difficult=[True, False]).ap_by_area == 0
    assert judged([(0, BOX, 0), (0, BOX, 0)], {0: found((BOX, 0.9, 0))}, difficult=[True, False]).ap_by_area == 1


def test_match_is_reached_by_equality() -> None:
    half = [10.0, 10.0, 50.0, 30.0]
    assert judged([(0, BOX, 0)], {0: found((half, 0.9, 0))}).ap_by_area == 1
    assert judged([(0, BOX, 0)], {0: found((half, 0.9, 0))}, match=0.51).ap_by_area == 0


def test_plus_one() -> None:
    """From 1 to 1 is a pixel there: boxes of 4 and of 2 by 9 pixels; else 3 by 8 and 1 by 8, a third."""
    rows, detections = [(0, [1.0, 1.0, 4.0, 9.0], 0)], {0: found(([1.0, 1.0, 2.0, 9.0], 0.9, 0))}
    assert judged(rows, detections, plus_one=True).ap_by_area == 1
    assert judged(rows, detections).ap_by_area == 0


def test_classes_and_images_are_apart() -> None:
    rows = [(0, BOX, 0), (1, BOX, 1)]
    crossed = {0: found((BOX, 0.9, 1)), 1: found((BOX, 0.9, 0))}
    metrics = judged(rows, crossed, num_classes=3)
    assert metrics.by_area[:2].tolist() == [0, 0]
    assert math.isnan(metrics.by_area[2])
    assert metrics.ap_by_area == 0
    right = judged(rows, {0: found((BOX, 0.9, 0)), 1: found((BOX, 0.1, 1))}, num_classes=3)
    assert right.ap_by_points == right.ap_by_area == 1


def test_order_of_objects_detections_and_images_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (40, 2))], axis=1)
    image, label, difficult = np.sort(rng.integers(5, size=40)), rng.integers(3, size=40), rng.random(40) < 0.2
    near = boxes[rng.integers(40, size=120)] + rng.uniform(-5, 5, (120, 4))
    where, labels, scores = rng.integers(5, size=120), rng.integers(3, size=120), rng.permutation(120) / 120

    def run(order: np.ndarray, names: np.ndarray) -> VOCMetrics:
        rows = sorted(range(40), key=lambda i: (names[image[i]], order[i]))
        annotations = annotated([(int(names[image[i]]), boxes[i].tolist(), int(label[i])) for i in rows], 5, 3)
        detections = {}
        for i in range(5):
            mine = [j for j in order.tolist() + list(range(40, 120)) if where[j] == i]
            detections[int(names[i])] = Detections(
                torch.tensor(near[mine]), torch.tensor(scores[mine]), torch.tensor(labels[mine]))
        return voc_metrics(detections, replace(annotations, difficult=difficult[rows]))

    plain = run(np.arange(40), np.arange(5))
    other = run(rng.permutation(40), rng.permutation(5))
    np.testing.assert_allclose(other.by_area, plain.by_area)
    np.testing.assert_allclose(other.by_points, plain.by_points)
    assert 0 < plain.ap_by_area < 1


def test_nothing_there() -> None:
    nothing = judged([], {})
    assert math.isnan(nothing.ap_by_points) and math.isnan(nothing.ap_by_area)
    assert judged([(0, BOX, 0)], {}).ap_by_area == 0
    assert judged([(0, BOX, 0)], {0: Detections.empty()}).ap_by_points == 0
    assert math.isnan(judged([(0, BOX, 0)], {0: found((BOX, 0.9, 0))}, difficult=[True]).ap_by_area)
    with pytest.raises(ValueError, match=r"match in \(0, 1\], got 0"):
        judged([], {}, match=0)
    with pytest.raises(ValueError, match="labels below the number of classes"):
        judged([(0, BOX, 0)], {0: found((BOX, 0.9, 5))})


def test_table_and_json() -> None:
    metrics = judged([(0, BOX, 0)], {0: found((BOX, 0.9, 0))}, num_classes=2)
    lines = metrics.summary(("cat", "dog")).splitlines()
    assert lines[0].split() == ["VOC", "AP,", "IoU", "0.5", "11-point", "area", "objects"]
    assert [line.split() for line in lines[1:]] == [
        ["all", "1.0000", "1.0000", "1"], ["cat", "1.0000", "1.0000", "1"], ["dog", "-", "-", "0"]]
    content = metrics.to_json(("cat", "dog"))
    assert (content["11point"], content["area"], content["match"]) == (1, 1, 0.5)
    assert content["per_class"]["dog"] == {"11point": None, "area": None, "objects": 0}


def test_published_example(shared: Path) -> None:
    """Seven images, 15 objects, 24 detections: the example of a widely used VOC evaluator, at IoU .3 in old pixels.

    It publishes 26.84 % by 11 points and 24.57 % by area.
    """
    folder = shared / "data" / "eval" / "voc"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    rows, detections = [], {}
    for number in range(1, 8):
        for line in (folder / "gts" / f"{number:05d}.txt").read_text().splitlines():
            if line.strip():
                x, y, w, h = map(float, line.split()[1:])
                rows.append((number - 1, [x, y, x + w, y + h], 0))
        lines = (folder / "dets" / f"{number:05d}.txt").read_text().splitlines()
        numbers = [list(map(float, line.split()[1:])) for line in lines if line.strip()]
        detections[number - 1] = found(*[([x, y, x + w, y + h], s, 0) for s, x, y, w, h in numbers])
    metrics = judged(rows, detections, num_images=7, match=0.3, plus_one=True)
    assert (metrics.num_objects[0], metrics.num_detections[0]) == (15, 24)
    assert round(100 * metrics.ap_by_points, 2) == 26.84
    assert round(100 * metrics.ap_by_area, 2) == 24.57
