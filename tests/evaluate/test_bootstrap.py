"""Resamples of a set: by hand, paired, and the same for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bifocals.evaluate import Interval, average_precision, bootstrap, resampled_ap
from bifocals.evaluate.bootstrap import interval
from bifocals.evaluate.matches import match
from tests.evaluate.by_hand import annotated, found
from tests.evaluate.test_matches import BOX, copies, drawn


def test_two_images_by_hand() -> None:
    """One object found, one missed: of four equally likely draws one holds the first twice, two hold both."""
    annotations = annotated([(0, BOX, 0), (1, BOX, 0)])
    ap = resampled_ap([match({0: found((BOX, 0.9, 0))}, annotations)], 4000)[0]
    for value, share in ((0.0, 0.25), (51 / 101, 0.5), (1.0, 0.25)):
        assert np.isclose(ap, value, atol=1e-12).mean() == pytest.approx(share, abs=0.04)
    assert np.isclose(ap, 0).sum() + np.isclose(ap, 51 / 101).sum() + np.isclose(ap, 1).sum() == 4000


def test_a_resample_is_what_an_evaluation_of_the_drawn_images_says() -> None:
    annotations, detections = drawn(25)
    ap = resampled_ap([match(detections, annotations)], 5, seed=7)[0]
    rng = np.random.default_rng(7)
    for value in ap:
        weights = np.bincount(rng.integers(25, size=25), minlength=25)
        assert weights.max() > 1
        expected = average_precision(*reversed(copies(annotations, detections, weights))).ap
        assert value == pytest.approx(expected, abs=1e-12)


def test_variants_see_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, detections = drawn(40)
    fewer = {i: d.above(0.3) for i, d in detections.items()}
    both = resampled_ap([match(detections, annotations), match(fewer, annotations)], 200, seed=1)
    assert both.shape == (2, 200)
    assert np.array_equal(both[0], resampled_ap([match(detections, annotations)], 200, seed=1)[0])
    assert not np.array_equal(both[0], resampled_ap([match(detections, annotations)], 200, seed=2)[0])
    assert (both[0] - both[1]).std() < 0.5 * both[0].std()  # what an image is worth to both cancels
    monkeypatch.setattr(bootstrap, "_NUMBERS_AT_ONCE", 100)
    assert np.array_equal(both[0], resampled_ap([match(detections, annotations)], 200, seed=1)[0])


def test_the_spread_is_the_one_of_sets_of_that_size() -> None:
    """The standard deviation over resamples of one set, against the one over many sets of its size."""
    ones = np.ones((1, 50), dtype=int)
    sets = [drawn(50, num_classes=1, seed=seed) for seed in range(60)]
    true = np.std([match(detections, annotations).ap(ones)[0] for annotations, detections in sets])
    guesses = [resampled_ap([match(d, a)], 200)[0].std() for a, d in sets[:10]]
    assert np.mean(guesses) == pytest.approx(true, rel=0.3)


def test_interval() -> None:
    assert interval(0.4, np.linspace(0, 1, 1001)) == Interval(0.4, pytest.approx(0.025), pytest.approx(0.975))
    assert interval(0.4, np.array([math.nan, 1.0, math.nan, 3.0])) == Interval(0.4, pytest.approx(1.05),
                                                                               pytest.approx(2.95))
    assert Interval(math.nan, 1.0, 2.0).to_json() == {"value": None, "low": 1.0, "high": 2.0}
    for nothing in (interval(math.nan, np.ones(3)), interval(0.4, np.full(3, math.nan))):
        assert math.isnan(nothing.low) and math.isnan(nothing.high)


def test_sets_without_images_and_wrong_arguments() -> None:
    nothing = match({}, annotated([], num_images=0))
    assert np.isnan(resampled_ap([nothing], 3)).all()
    one = match({}, annotated([(0, BOX, 0)]))
    with pytest.raises(ValueError, match=r"got sets of \[0, 2\] images"):
        resampled_ap([one, nothing], 3)
    with pytest.raises(ValueError, match="got sets of"):
        resampled_ap([], 3)
    with pytest.raises(ValueError, match="at least 1 resample, got 0"):
        resampled_ap([one], 0)
