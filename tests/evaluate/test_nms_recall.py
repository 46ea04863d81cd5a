"""The recall that NMS leaves, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bifocals.evaluate import nms_recall
from tests.evaluate.by_hand import annotated

WHOLE = [0.0, 0.0, 100.0, 100.0]


def upper(height: float) -> list[float]:
    """The upper part of the image; two such boxes have the ratio of their heights as IoU."""
    return [0.0, 0.0, 100.0, height]


def recalls(boxes: list[list[float]], thresholds: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8), **change: object):
    return nms_recall(annotated([(0, box, 0) for box in boxes], **change), thresholds)  # type: ignore[arg-type]


def test_by_hand() -> None:
    """Heights 100, 75, 45 and one apart: IoU .75 (first, second), .45 (first, third), .6 (second, third).

    At .4 the first drops both. At .5 and .6 it drops the second, so the third has nothing above it any more (IoU .45);
    at .7 as well. At .8 nothing is dropped.
    """
    apart = [60.0, 80.0, 100.0, 100.0]
    rows = recalls([upper(75), upper(45), apart])
    assert [row.found for row in rows] == [2, 2, 3, 3, 3]  # .6 is not above .6
    rows = recalls([upper(100), upper(75), upper(45)])
    assert [row.found for row in rows] == [1, 2, 2, 2, 3]
    assert [row.pairs for row in rows] == [3, 2, 1, 1, 0]
    assert [row.in_pairs for row in rows] == [3, 3, 2, 2, 0]
    assert [row.recall for row in rows] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3, 1])
    assert rows[1].to_json() == {"threshold": 0.5, "recall": 2 / 3, "found": 2, "objects": 3, "pairs": 2, "in_pairs": 3}


def test_the_order_of_the_file_decides() -> None:
    """The middle one, when it comes first, drops both others; in the middle it is dropped itself."""
    chain = [[0.0, 0.0, 60.0, 60.0], [0.0, 15.0, 60.0, 75.0], [0.0, 30.0, 60.0, 90.0]]  # IoU .6, .6, .33
    assert recalls(chain, (0.5,))[0].found == 2
    assert recalls([chain[1], chain[0], chain[2]], (0.5,))[0].found == 1


def test_order_decides_among_thousands_of_equal_boxes() -> None:
    """Where sorting equal scores by an unstable sort would show: pairs of a kept and a dropped box."""
    rng = np.random.default_rng(0)
    boxes = []
    for k in range(600):
        x = 150.0 * k
        boxes += [[x, 0.0, x + 60, 60.0], [x, 15.0, x + 60, 75.0], [x, 30.0, x + 60, 90.0]]
    sizes = np.array([[100, 150 * 600]] * 2, dtype=np.int32)
    for _ in range(3):
        order = rng.permutation(len(boxes))
        place = np.argsort(order).reshape(-1, 3)  # where the three of each chain stand in the file
        expected = sum(1 if middle < min(first, last) else 2 for first, middle, last in place.tolist())
        annotations = replace(annotated([(0, boxes[i], 0) for i in order]), sizes_hw=sizes)
        assert nms_recall(annotations, (0.5,))[0].found == expected


def test_classes_images_and_crowds_are_apart() -> None:
    rows = [(0, WHOLE, 0), (0, WHOLE, 1), (0, WHOLE, 0), (1, WHOLE, 0)]
    annotations = annotated(rows, num_classes=2)
    assert nms_recall(annotations, (0.5,))[0].to_json() == {
        "threshold": 0.5, "recall": 0.75, "found": 3, "objects": 4, "pairs": 1, "in_pairs": 2}
    crowded = replace(annotations, crowd=np.array([True, False, False, False]))
    assert nms_recall(crowded, (0.5,))[0].recall == 1
    assert nms_recall(crowded, (0.5,))[0].objects == 3


def test_boxes_are_cut_to_the_image() -> None:
    """Two bodies that reach below the image look alike inside; one outside finds nothing."""
    below = [[0.0, 50.0, 40.0, 150.0], [0.0, 50.0, 40.0, 250.0]]
    assert recalls(below, (0.5,))[0].found == 1
    assert recalls([*below, [-50.0, 0.0, -10.0, 40.0]], (0.5,))[0].recall == pytest.approx(1 / 3)


def test_no_objects_and_impossible_values() -> None:
    empty = nms_recall(annotated([]), (0.5,))[0]
    assert math.isnan(empty.recall) and empty.to_json()["recall"] is None
    for thresholds, message in (((), "got none"), ((0.5, 0.0, 1.5), r"got \[0.0, 1.5\]"), ((math.nan,), "got")):
        with pytest.raises(ValueError, match=message):
            nms_recall(annotated([]), thresholds)
    unknown = replace(annotated([]), sizes_hw=np.zeros((2, 2), dtype=np.int32))
    with pytest.raises(ValueError, match="got none for 0.jpg; 2 of 2 have none"):
        nms_recall(unknown)
