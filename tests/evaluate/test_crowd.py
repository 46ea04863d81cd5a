"""CrowdHuman's numbers: each rule by hand, the sheet's three images, and a plain loop over many."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from bifocals.data import Annotations
from bifocals.evaluate import CrowdMetrics, crowd_metrics
from bifocals.evaluate.crowd import (
    RankedDetections,
    log_average_miss_rate,
    overlaps_of_classes,
    rank_detections,
    trapezoid_precision,
)
from bifocals.evaluate.crowd_overlaps import cut_to_images
from bifocals.structures import Detections
from tests.evaluate.by_hand import annotated, found

Row = tuple[list[float], float, int]


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def ranked(detections: dict[int, Detections], annotations: Annotations) -> RankedDetections:
    [overlaps] = overlaps_of_classes(detections, annotations)
    return rank_detections(overlaps)


def numbers(metrics: CrowdMetrics) -> list[float]:
    return [metrics.ap50, metrics.mmr, metrics.recall, metrics.jaccard]


def of(correct: list[bool], num_objects: int, num_images: int = 1) -> RankedDetections:
    return RankedDetections(np.linspace(1, 0, len(correct)), np.array(correct, dtype=bool), num_objects, num_images)


def toy() -> tuple[dict[int, Detections], Annotations]:
    """Three images whose numbers DATE's own evaluation was asked for: an ignored person, a box over the edge, a
    picture without detections."""
    objects = [
        (0, corners(10, 10, 40, 80), 0), (0, corners(20, 10, 40, 80), 0), (0, corners(150, -10, 80, 90), 0),
        (0, corners(100, 10, 40, 80), 0), (1, corners(5, 5, 30, 60), 0), (2, corners(50, 20, 30, 60), 0),
    ]  # fmt: skip
    annotations = annotated(objects, num_images=3, crowd=[False, False, False, True, False, False])
    annotations = replace(annotations, sizes_hw=np.array([[100, 200], [100, 100], [100, 100]], dtype=np.int32))
    first = found(
        (corners(12, 10, 40, 80), 0.9, 0), (corners(20, 12, 40, 80), 0.8, 0), (corners(13, 12, 40, 78), 0.7, 0),
        (corners(155, 0, 45, 80), 0.6, 0), (corners(105, 20, 20, 30), 0.55, 0), (corners(104, 12, 38, 78), 0.5, 0),
        (corners(70, 60, 20, 20), 0.4, 0),
    )  # fmt: skip
    second = found((corners(60, 60, 20, 30), 0.95, 0), (corners(7, 6, 30, 60), 0.3, 0), (corners(6, 6, 29, 58), 0.2, 0))
    return {0: first, 1: second}, annotations


def test_the_toy_set_has_the_recorded_numbers() -> None:
    detections, annotations = toy()
    order = ranked(detections, annotations)
    assert order.scores.tolist() == [0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2]  # .55 and .5 fell to the ignored one
    assert "".join("FT"[int(c)] for c in order.correct) == "FTTFTFTF"
    assert (order.num_objects, order.num_images) == (5, 3)
    metrics = crowd_metrics(detections, annotations)
    assert metrics.ap50 == pytest.approx(0.3838095, abs=1e-7)
    assert metrics.mmr == pytest.approx(0.8533645, abs=1e-7)
    assert metrics.recall == pytest.approx(0.8)


def test_the_toy_set_s_jaccard_index() -> None:
    """Above .5 the matched and all: image 0 has 3 of 4 detections and 3 objects, .75; images 1 and 2 have none.

    Above .3 (not .3 itself) image 0 has 3 matched of 5, since the two in the ignored region are out: 3 / (5 + 3 - 3).
    Above .2 image 1 matches one of two: 1 / (2 + 1 - 1). Above 0 it is 1 / (3 + 1 - 1).
    """
    detections, annotations = toy()
    means = {0.5: (3 / 4 + 0 + 0) / 3, 0.2: (3 / 5 + 1 / 2 + 0) / 3, 0.0: (3 / 5 + 1 / 3 + 0) / 3}
    assert crowd_metrics(detections, annotations).jaccard == pytest.approx(max(means.values()))
    for threshold, expected in means.items():
        kept = {i: d.above(threshold) for i, d in detections.items()}
        higher = {i: replace(d, scores=torch.full_like(d.scores, 0.05)) for i, d in kept.items()}
        assert crowd_metrics(higher, annotations).jaccard == pytest.approx(expected)


def test_the_order_of_images_and_detections_does_not_matter() -> None:
    detections, annotations = toy()
    shuffled = {
        i: Detections(d.boxes[turn], d.scores[turn], d.labels[turn])
        for i, d in detections.items()
        for turn in (torch.arange(len(d)).flip(0),)
    }
    turned = annotations.subset([2, 0, 1])
    assert numbers(crowd_metrics(shuffled, turned)) == pytest.approx(numbers(crowd_metrics(detections, annotations)))


def test_the_trapezoid_starts_at_the_second_detection() -> None:
    assert trapezoid_precision(of([True, True], 2)) == pytest.approx(0.5)  # from recall .5 to 1, at precision 1
    assert trapezoid_precision(of([True], 1)) == 0  # nothing before the first
    assert trapezoid_precision(of([False, True, True], 2)) == pytest.approx((0 + 1 / 2) / 4 + (1 / 2 + 2 / 3) / 4)
    assert trapezoid_precision(of([], 3)) == 0
    assert math.isnan(trapezoid_precision(of([False], 0)))


def test_the_miss_rate_is_read_at_the_first_detection_that_reaches_a_point() -> None:
    """100 images, 10 objects. FPPI .01 .. is reached by false positives 1, 2, 4, 6, 10, 18, 32, 57, 100."""
    correct = [True, False, True, True, False, True] + [False] * 20
    # The misses behind each detection: .9 .9 .8 .7 .7 .6 and .6 for the rest; false positives 0 1 1 1 2 2 3 ... 22.
    expected = [0.9, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]  # beyond .22 it is that of the last detection
    ours = log_average_miss_rate(of(correct, 10, 100))
    assert ours == pytest.approx(math.exp(np.mean(np.log(expected))))
    assert log_average_miss_rate(of(correct, 10, 100), (0.01,)) == pytest.approx(0.9)
    assert log_average_miss_rate(of(correct, 10, 100), (0.011,)) == pytest.approx(0.7)


def test_miss_rates_that_are_none() -> None:
    assert log_average_miss_rate(of([True, True], 2)) == 0.0  # the logarithm of nothing missed
    assert log_average_miss_rate(of([], 2)) == 1.0
    assert math.isnan(log_average_miss_rate(of([], 0)))


def test_an_object_is_found_above_an_iou_of_a_half_not_at_it() -> None:
    box = corners(0, 0, 40, 40)
    for width, hit in ((20.0, False), (20.001, True)):
        order = ranked({0: found((corners(0, 0, 40, width), 0.9, 0))}, annotated([(0, box, 0)]))
        assert order.correct.tolist() == [hit]
    assert crowd_metrics({0: found((corners(0, 0, 40, 20), 0.9, 0))}, annotated([(0, box, 0)])).jaccard == 1


def test_a_detection_takes_the_nearest_free_object() -> None:
    objects = [(0, corners(0, 0, 40, 40), 0), (0, corners(0, 0, 40, 30), 0)]
    both = found((corners(0, 0, 40, 38), 0.9, 0), (corners(0, 0, 40, 38), 0.8, 0), (corners(0, 0, 40, 38), 0.7, 0))
    assert ranked({0: both}, annotated(objects)).correct.tolist() == [True, True, False]
    # The first overlaps both and takes the greater; the second overlaps the smaller alone, and finds it free.
    rest = found((corners(0, 0, 40, 38), 0.9, 0), (corners(0, 0, 40, 18), 0.8, 0))
    for order in (objects, objects[::-1]):
        assert ranked({0: rest}, annotated(order)).correct.tolist() == [True, True]


def test_the_jaccard_index_leaves_out_what_lies_in_ignored_regions() -> None:
    """One object found; another one, and a detection without object, lie in the region. Without it: 1 / (2 + 2 - 1)."""
    objects = [(0, corners(0, 0, 30, 30), 0), (0, corners(60, 60, 20, 20), 0), (0, corners(50, 50, 50, 50), 0)]
    seen = {0: found((corners(0, 0, 30, 30), 0.9, 0), (corners(80, 80, 15, 15), 0.9, 0))}
    assert crowd_metrics(seen, annotated(objects, crowd=[False, False, True])).jaccard == 1
    assert crowd_metrics(seen, annotated(objects[:2])).jaccard == pytest.approx(1 / 3)


def test_an_ignored_region_takes_any_number_and_gives_way_to_objects() -> None:
    objects = [(0, corners(0, 0, 90, 90), 0), (0, corners(10, 10, 20, 40), 0)]
    inside = [(corners(10, 10, 20, 40), 0.9, 0), (corners(10, 10, 20, 40), 0.8, 0), (corners(40, 40, 20, 40), 0.7, 0),
              (corners(60, 0, 60, 40), 0.6, 0), (corners(61, 0, 60, 40), 0.5, 0)]  # fmt: skip
    order = ranked({0: found(*inside)}, annotated(objects, crowd=[True, False]))
    # The fourth lies in it with 30 of its 40 columns (the image ends at 100), the fifth with 29 of 39.
    assert order.scores.tolist() == [0.9]
    assert order.correct.tolist() == [True]
    outside = found((corners(80, 0, 20, 50), 0.9, 0))  # a half of it is in the region: not more
    assert ranked({0: outside}, annotated(objects, crowd=[True, False])).correct.tolist() == [False]


def test_boxes_are_cut_to_the_image_before() -> None:
    sizes = np.array([[50, 100]] * 4, dtype=np.int32)
    boxes = np.array([[-10, -5, 120, 70], [10, 10, 20, 20], [130, 60, 140, 80], [-30, -30, -10, -10]], dtype=float)
    expected = [[0, 0, 100, 50], [10, 10, 20, 20], [99, 49, 100, 50], [0, 0, 0, 0]]
    assert cut_to_images(boxes, sizes).tolist() == expected
    # Full bodies reach far beyond the image of 100x100; detections cannot.
    body, seen = corners(60, 50, 100, 200), corners(60, 50, 40, 50)
    metrics = crowd_metrics({0: found((seen, 0.9, 0))}, annotated([(0, body, 0)], num_images=1))
    assert (metrics.recall, metrics.jaccard, metrics.mmr) == (1.0, 1.0, 0.0)


def test_sets_without_anything() -> None:
    box = corners(0, 0, 40, 40)
    nothing = crowd_metrics({}, annotated([]))
    assert nothing.to_json() == {"ap50": None, "mmr": None, "recall": None, "jaccard": None}
    wrong = crowd_metrics({0: found((box, 0.9, 0))}, annotated([]))
    assert all(math.isnan(value) for value in numbers(wrong))
    silent = crowd_metrics({}, annotated([(0, box, 0)]))
    assert silent.to_json() == {"ap50": 0.0, "mmr": 1.0, "recall": 0.0, "jaccard": 0.0}
    ignored = crowd_metrics({0: found((box, 0.9, 0))}, annotated([(0, box, 0)], crowd=[True]))
    assert all(math.isnan(value) for value in numbers(ignored))


def test_classes_are_averaged_where_they_have_objects() -> None:
    box, far = corners(0, 0, 40, 40), corners(50, 50, 40, 40)
    annotations = annotated([(0, box, 0), (0, far, 1), (1, far, 1)], num_classes=3)
    detections = {0: found((box, 0.9, 0), (far, 0.8, 0), (far, 0.7, 1), (box, 0.6, 2)), 1: found((far, 0.5, 1))}
    metrics = crowd_metrics(detections, annotations)
    assert metrics.ap50 == pytest.approx((0 + 0.5) / 2)
    assert metrics.recall == 1
    assert metrics.jaccard == pytest.approx((1 + 1) / 2)  # of class 0 the second detection is below a threshold


@pytest.mark.parametrize(("change", "message"), [
    ({"match": 0.0}, "match in \\(0, 1\\), got 0.0"), ({"match": 1.0}, "got 1.0"), ({"match": math.nan}, "got nan"),
])  # fmt: skip
def test_impossible_thresholds(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crowd_metrics({}, annotated([]), **change)


def test_sizes_must_be_known() -> None:
    annotations = annotated([(0, corners(0, 0, 40, 40), 0)])
    sizes = annotations.sizes_hw.copy()
    sizes[1] = 0
    with pytest.raises(ValueError, match="got none for 1.jpg; 1 of 2 have none"):
        crowd_metrics({}, replace(annotations, sizes_hw=sizes))
    with pytest.raises(ValueError, match="expected ids of the 2 annotated images"):
        crowd_metrics({7: found()}, annotations)


def crowd_of(num_images: int, num_detections: int, num_objects: int, seed: int = 0,
             ) -> tuple[dict[int, Detections], Annotations]:
    """Objects in a row that overlap their neighbors, one in ten ignored, and detections around them."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 900, (num_images, num_objects, 2))
    boxes = np.concatenate([low, low + rng.uniform(40, 160, (num_images, num_objects, 2))], axis=2)
    rows = [(i, boxes[i, g].tolist(), 0) for i in range(num_images) for g in range(num_objects)]
    annotations = annotated(rows, num_images=num_images, crowd=rng.random(len(rows)) < 0.1)
    annotations = replace(annotations, sizes_hw=np.full((num_images, 2), 1000, dtype=np.int32))
    detections = {}
    for i in range(num_images):
        near = boxes[i, rng.integers(num_objects, size=num_detections)]
        moved = near + rng.normal(0, 12, near.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores = np.sort(rng.integers(1, 60, num_detections) / 60)[::-1].copy()  # with ties
        detections[i] = Detections(torch.from_numpy(moved), torch.from_numpy(scores),
                                   torch.zeros(num_detections, dtype=torch.int64))  # fmt: skip
    return detections, annotations


def test_many_images_equal_a_plain_loop() -> None:
    detections, annotations = crowd_of(12, 40, 25)
    outcome = []
    for i in range(12):
        boxes, _, crowd = annotations.objects(i)
        cut = cut_to_images(boxes, annotations.sizes_hw[[i] * len(boxes)])
        seen = cut_to_images(detections[i].boxes.numpy(), annotations.sizes_hw[[i] * len(detections[i])])
        free = {g for g in range(len(boxes)) if not crowd[g]}
        for box, score in zip(seen, detections[i].scores.tolist(), strict=True):
            sides = np.minimum(box[2:], cut[:, 2:]) - np.maximum(box[:2], cut[:, :2])
            inner = sides.clip(0).prod(axis=1)
            own, areas = (box[2:] - box[:2]).prod(), (cut[:, 2:] - cut[:, :2]).prod(axis=1)
            iou, share = inner / (own + areas - inner + 1e-6), inner / (own + 1e-6)
            best = max(free, key=lambda g: iou[g], default=None)
            if best is not None and iou[best] > 0.5:
                free.remove(best)
                outcome.append((score, True))
            elif not (share[crowd] > 0.5).any():
                outcome.append((score, False))
    outcome.sort(key=lambda pair: -pair[0])
    order = ranked(detections, annotations)
    assert 0.3 < order.correct.mean() < 0.9 and len(order.correct) < 12 * 40
    assert list(zip(order.scores.tolist(), order.correct.tolist(), strict=True)) == outcome


def test_hundreds_of_images_take_a_moment() -> None:
    """A tenth of CrowdHuman's validation set, so that a slip into one call a detection would be seen."""
    detections, annotations = crowd_of(437, 500, 27)
    start = time.process_time()
    crowd_metrics(detections, annotations)
    assert time.process_time() - start < 5  # measured: .5 s
