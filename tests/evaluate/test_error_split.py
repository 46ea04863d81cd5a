"""Areas by hand, beside COCO's own AP, and what each kind of error moves."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bifocals.evaluate import average_precision
from bifocals.evaluate.error_split import KINDS, error_split

from .by_hand import annotated, found

A, B = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def areas(detections, annotations, label: int = 0) -> dict[str, float]:
    return dict(zip(KINDS, error_split(detections, annotations).areas[label].tolist(), strict=True))


def test_all_right():
    split = areas({0: found((A, 0.9, 0), (B, 0.8, 0))}, annotated([(0, A, 0), (0, B, 0)]))
    assert split == dict.fromkeys(KINDS, 1.0)


def test_a_misplaced_box_is_a_localization_error():
    # IoU 6/14 = .43 with A: wrong at .5, right at .1. B is found second: precision 1/2 at a recall of 1/2 (51 points of
    # recall 0 to .5), then 0.
    near = [4.0, 0, 14, 10]
    split = areas({0: found((near, 0.9, 0), (B, 0.8, 0))}, annotated([(0, A, 0), (0, B, 0)]))
    half = 0.5 * 51 / 101
    assert split == pytest.approx({"C75": half, "C50": half, "Loc": 1, "Oth": 1, "BG": 1, "FN": 1})
    result = error_split({0: found((near, 0.9, 0), (B, 0.8, 0))}, annotated([(0, A, 0), (0, B, 0)]))
    assert result.losses(result.areas[0])["localization"] == pytest.approx(1 - half)


def test_looseness_is_a_tenth():
    inside = [0.0, 0, 10, 0.9]  # IoU .09
    assert areas({0: found((inside, 0.9, 0))}, annotated([(0, A, 0)]))["Loc"] == 0
    inside = [0.0, 0, 10, 1.1]
    assert areas({0: found((inside, 0.9, 0))}, annotated([(0, A, 0)]))["Loc"] == 1


def test_the_wrong_class_is_forgiven_by_oth():
    truth = annotated([(0, A, 0), (0, B, 1)], num_classes=2)
    split = areas({0: found((B, 0.9, 0), (A, 0.8, 0))}, truth)
    assert split == pytest.approx({"C75": 0.5, "C50": 0.5, "Loc": 0.5, "Oth": 1, "BG": 1, "FN": 1})
    # An object of another class takes one wrong detection; a second one is background.
    split = areas({0: found((B, 0.9, 0), (B, 0.85, 0), (A, 0.8, 0))}, truth)
    assert split == pytest.approx({"C75": 1 / 3, "C50": 1 / 3, "Loc": 1 / 3, "Oth": 0.5, "BG": 1, "FN": 1})
    # A crowd region of another class takes any number.
    region = annotated([(0, A, 0), (0, B, 1)], num_classes=2, crowd=[False, True])
    assert areas({0: found((B, 0.9, 0), (B, 0.85, 0), (A, 0.8, 0))}, region)["Oth"] == 1


def test_background_and_duplicates_are_forgiven_by_bg_and_misses_by_none():
    nowhere = [80.0, 80, 90, 90]
    truth = annotated([(0, A, 0), (0, B, 0)])
    split = areas({0: found((nowhere, 0.9, 0), (A, 0.8, 0), (A, 0.7, 0))}, truth)
    assert split["Oth"] == pytest.approx(0.5 * 51 / 101)
    assert split["BG"] == pytest.approx(51 / 101)  # B is missed: half of the recall is never reached
    result = error_split({0: found((nowhere, 0.9, 0), (A, 0.8, 0), (A, 0.7, 0))}, truth)
    assert result.losses(result.areas[0])["missed"] == pytest.approx(50 / 101)


def test_own_crowd_regions_count_neither_way():
    truth = annotated([(0, A, 0), (0, [40.0, 40, 90, 90], 0)], crowd=[False, True])
    split = areas({0: found((B, 0.9, 0), (A, 0.8, 0))}, truth)
    assert split == dict.fromkeys(KINDS, 1.0)


def test_classes_without_objects_and_sets_without_detections():
    truth = annotated([(0, A, 0)], num_classes=2)
    split = error_split({}, truth)
    assert split.areas[0].tolist() == [0, 0, 0, 0, 0, 1] and np.isnan(split.areas[1]).all()
    assert split.mean.tolist() == [0, 0, 0, 0, 0, 1]
    record = json.loads(json.dumps(split.to_json(("a", "b"))))
    assert record["per_class"]["b"]["C50"] is None and record["mean"]["missed"] == 1
    assert split.lines(("a", "b"))[3].split() == ["b", "-", "-", "-", "-", "-", "-"]
    nothing = error_split({}, annotated([]))
    assert all(math.isnan(value) for value in nothing.mean.tolist())


def drawn(seed: int):
    """A crowded set: three classes, crowd regions, tied scores, misplaced boxes, wrong classes, ids out of order."""
    draw = np.random.default_rng(seed)
    rows = []
    for image in range(12):
        for _ in range(draw.integers(0, 9)):
            low = draw.uniform(0, 70, 2)
            rows.append((image, [*low, *(low + draw.uniform(5, 30, 2))], int(draw.integers(3))))
    truth = annotated(rows, 12, 3, image_ids=draw.permutation(12) + 5, crowd=draw.random(len(rows)) < 0.1)
    detections = {}
    for image in range(12):
        mine = []
        for owner, box, label in rows:
            if owner == image:
                for _ in range(draw.integers(0, 4)):
                    moved = np.array(box) + draw.normal(0, 4, 4)
                    moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                    wrong = int(draw.integers(3)) if draw.random() < 0.2 else label
                    mine.append((moved.tolist(), float(draw.integers(1, 20)) / 20, wrong))
        detections[int(truth.image_ids[image])] = found(*mine)
    return detections, truth


@pytest.mark.parametrize("seed", range(6))
def test_the_first_areas_are_cocos_ap(seed: int):
    detections, truth = drawn(seed)
    split, result = error_split(detections, truth), average_precision(detections, truth)
    np.testing.assert_allclose(split.areas[:, 1], result.class_ap50, atol=1e-9)
    np.testing.assert_allclose(split.areas[:, 0], result.precision[5].mean(axis=0), atol=1e-9)
    assert (np.diff(split.areas, axis=1) >= -1e-12).all()  # each kind forgives more than the one before


def test_only_the_best_of_an_image_count():
    rows = [(B, 0.9 - 0.01 * i, 0) for i in range(5)]
    detections, truth = {0: found(*rows, (A, 0.1, 0))}, annotated([(0, A, 0)])
    assert error_split(detections, truth, max_detections=5).areas[0, 1] == 0
    assert error_split(detections, truth, max_detections=6).areas[0, 1] == pytest.approx(1 / 6)
