"""AP from matches found once: by hand, equal to `average_precision`, and weights as copies of images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bifocals.data import Annotations, load_coco
from bifocals.evaluate import average_precision
from bifocals.evaluate import matches as module
from bifocals.evaluate.matches import match
from bifocals.structures import Detections
from tests.evaluate.by_hand import annotated, found

BOX = [10.0, 10.0, 50.0, 50.0]
AWAY = [60.0, 60.0, 90.0, 90.0]
PART = [10.0, 10.0, 50.0, 41.0]  # IoU with BOX 31 / 40 = .775: right at six of ten thresholds


def drawn(
    num_images: int, num_classes: int = 3, seed: int = 0, ties: bool = False
) -> tuple[Annotations, dict[int, Detections]]:
    """Objects, a tenth of them crowd regions, and detections near them; ids in no order, one image in six empty."""
    rng = np.random.default_rng(seed)
    rows, detections = [], {}
    ids = rng.permutation(num_images) * 3 + 5
    for image in range(num_images):
        if rng.random() < 1 / 6:
            continue
        number = int(rng.integers(1, 6))
        corner = rng.uniform(0, 300, (number, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 150, (number, 2))], axis=1)
        labels = rng.integers(num_classes, size=number)
        rows += [(image, box.tolist(), int(label)) for box, label in zip(boxes, labels, strict=True)]
        source = rng.integers(number, size=12)
        near = boxes[source] + rng.normal(0, 6, (12, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores = rng.integers(1, 20, 12) / 20 if ties else rng.random(12)
        kind = np.where(rng.random(12) < 0.8, labels[source], rng.integers(num_classes, size=12))
        detections[int(ids[image])] = Detections(
            torch.from_numpy(near), torch.from_numpy(scores), torch.from_numpy(kind)
        )
    crowd = rng.random(len(rows)) < 0.1
    return annotated(rows, num_images, num_classes, ids, crowd), detections


def copies(
    annotations: Annotations, detections: dict[int, Detections], weights: np.ndarray
) -> tuple[Annotations, dict[int, Detections]]:
    """A set in which each image stands as often as its weight says."""
    by_id = np.argsort(annotations.image_ids)
    places = np.repeat(by_id, weights[by_id])
    old = annotations.image_ids[places]
    repeated = replace(annotations.subset(places), image_ids=np.arange(len(places)))
    return repeated, {new: detections[int(i)] for new, i in enumerate(old) if int(i) in detections}


def test_by_hand() -> None:
    annotations = annotated([(0, BOX, 0), (1, BOX, 0)])
    result = match({0: found((BOX, 0.9, 0)), 1: found((AWAY, 0.8, 0), (BOX, 0.7, 0))}, annotations)
    ap = result.ap(np.array([[1, 1], [2, 1], [1, 2], [0, 2], [3, 0], [0, 0]]))
    expected = [
        (51 + 50 * 2 / 3) / 101,  # right, wrong, right: precision 1 up to recall .5, then 2/3
        (67 + 34 * 3 / 4) / 101,  # right twice, wrong, right: 1 up to recall .66, then 3/4
        (34 + 67 * 3 / 5) / 101,  # right, wrong twice, right twice: 1 up to recall .33, then 3/5
        1 / 2,
        1,
    ]
    np.testing.assert_allclose(ap[:5], expected, atol=1e-12)
    assert np.isnan(ap[5])  # no image, no AP


def test_thresholds_and_crowd_regions_by_hand() -> None:
    annotations = annotated([(0, BOX, 0), (0, AWAY, 0), (1, BOX, 0)], crowd=[False, True, False])
    result = match({0: found((AWAY, 0.9, 0), (PART, 0.8, 0)), 1: found((AWAY, 0.95, 0), (BOX, 0.7, 0))}, annotations)
    one = result.classes[0]
    assert one.image.tolist() == [1, 0, 0, 1]
    assert [row.tolist() for row in one.right] == [[2, 3]] * 6 + [[3]] * 4
    assert [row.tolist() for row in one.ignored] == [[1]] * 10
    assert sorted(one.objects.tolist()) == [0, 1]
    assert result.images_with_objects == 2
    # Image 0 alone: the detection in the crowd does not count, the other one is right at six thresholds.
    np.testing.assert_allclose(result.ap(np.array([[1, 0]])), 0.6, atol=1e-12)
    # Both: wrong, (ignored), right, right at six thresholds: 1/2, 2/3; wrong, (ignored), wrong, right at four: 1/3.
    both = 0.6 * 2 / 3 + 0.4 * 51 / 101 / 3
    np.testing.assert_allclose(result.ap(np.array([[1, 1]])), both, atol=1e-12)


@pytest.mark.parametrize(("num_images", "ties"), [(7, True), (60, False), (60, True), (560, True)])
def test_equal_to_average_precision(num_images: int, ties: bool) -> None:
    annotations, detections = drawn(num_images, seed=num_images, ties=ties)
    for limit in (100, 2):
        result = match(detections, annotations, max_detections=limit)
        expected = average_precision(detections, annotations, max_detections=limit).ap
        assert 0.05 < expected < 0.9
        assert result.ap(np.ones((1, num_images), dtype=int))[0] == pytest.approx(expected, abs=1e-12)


def test_equal_on_real_annotations(shared: Path) -> None:
    folder = shared / "data" / "eval"
    annotations = load_coco(folder / "instances_val2014_100.json", folder)
    label = {category: i for i, category in enumerate(annotations.category_ids)}
    by_image: dict[int, list[tuple[list[float], float, int]]] = {}
    for r in json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()):
        x, y, w, h = r["bbox"]
        by_image.setdefault(r["image_id"], []).append(([x, y, x + w, y + h], r["score"], label[r["category_id"]]))
    detections = {i: found(*rows) for i, rows in by_image.items()}
    result = match(detections, annotations)
    assert result.ap(np.ones((1, len(annotations)), dtype=int))[0] == pytest.approx(0.5045806987, abs=1e-9)
    # Copies: the results hold equal scores of one image and class, which copies would take in turns.
    apart = {i: Detections(d.boxes, d.scores - torch.arange(len(d)) * 1e-9, d.labels) for i, d in detections.items()}
    result = match(apart, annotations)
    rng = np.random.default_rng(0)
    for _ in range(3):
        weights = np.bincount(rng.integers(len(annotations), size=len(annotations)), minlength=len(annotations))
        expected = average_precision(*reversed(copies(annotations, apart, weights))).ap
        assert result.ap(weights[None])[0] == pytest.approx(expected, abs=1e-9)


def test_weights_are_copies_of_images() -> None:
    annotations, detections = drawn(30, num_classes=4, seed=3)
    weights = np.random.default_rng(0).integers(0, 4, (8, 30))
    got = match(detections, annotations).ap(weights)
    for row, ap in zip(weights, got, strict=True):
        assert ap == pytest.approx(average_precision(*reversed(copies(annotations, detections, row))).ap, abs=1e-12)
    assert len(set(got.tolist())) == 8


def test_what_is_computed_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, detections = drawn(40, ties=True)
    weights = np.random.default_rng(0).integers(0, 3, (50, 40))
    expected = match(detections, annotations).ap(weights)
    monkeypatch.setattr(module, "_IMAGES_AT_ONCE", 7)
    monkeypatch.setattr(module, "_WEIGHTS_AT_ONCE", 1)
    assert np.array_equal(match(detections, annotations).ap(weights), expected)


def test_what_does_not_exist() -> None:
    ones = np.ones((1, 2), dtype=int)
    empty = match({0: found((BOX, 0.9, 0))}, annotated([], num_classes=2))
    assert np.isnan(empty.ap(ones)).all()
    assert empty.images_with_objects == 0
    assert match({}, annotated([(0, BOX, 0)])).ap(ones)[0] == 0
    # A class without objects is left out of the mean, in each resample for itself.
    two = match({0: found((BOX, 0.9, 0), (AWAY, 0.9, 1))}, annotated([(0, BOX, 0), (1, BOX, 1)], num_classes=2))
    np.testing.assert_allclose(two.ap(np.array([[1, 0], [1, 1], [0, 1]])), [1, 0.5, 0], atol=1e-12)
    with pytest.raises(ValueError, match=r"weights of shape \[R, 2\], got \[1, 3\]"):
        two.ap(np.ones((1, 3), dtype=int))
    with pytest.raises(ValueError, match=r"got \[9\] among 1 images"):
        match({9: found((BOX, 0.9, 0))}, annotated([(0, BOX, 0)]))
