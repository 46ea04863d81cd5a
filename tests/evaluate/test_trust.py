"""The verdict on NMS: planted cases, the rule at its edges, and the sentence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bifocals.data import Annotations
from bifocals.evaluate import Interval, Trust, average_precision, trust_in
from bifocals.evaluate.trust import FEWEST_IMAGES, MARGIN
from bifocals.structures import Detections
from tests.evaluate.by_hand import annotated

Found = dict[int, Detections]


def planted(num_images: int, duplicates: float = 0.0, seed: int = 0) -> tuple[Annotations, Found, Found]:
    """Three objects an image far from each other, found with some noise. A share of them is found a second time; the
    second of the results is what NMS leaves: each object once."""
    rng = np.random.default_rng(seed)
    rows, free, suppressed = [], {}, {}
    for image in range(num_images):
        corner = np.array([[10.0, 10], [110, 10], [10, 110]]) + rng.uniform(0, 20, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(40, 70, (3, 2))], axis=1)
        rows += [(image, box.tolist(), 0) for box in boxes]
        boxes = boxes + rng.normal(0, 2, boxes.shape)
        scores = rng.uniform(0.3, 1, 3)
        twice = rng.random(3) < duplicates
        again = boxes[twice] + rng.normal(0, 1, (int(twice.sum()), 4))
        suppressed[image] = _detections(boxes, scores)
        free[image] = _detections(np.concatenate([boxes, again]), np.concatenate([scores, scores[twice] - 0.001]))
    return annotated(rows, num_images), free, suppressed


def _detections(boxes: np.ndarray, scores: np.ndarray) -> Detections:
    order = np.argsort(-scores)
    return Detections(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order]), torch.zeros(len(order)).long())


def judge(annotations: Annotations, free: Found, suppressed: Found, **settings: Any) -> Trust:
    return trust_in("one2one", free, suppressed, annotations, nms=0.6, **{"resamples": 300, **settings})


def test_many_duplicates_are_not_safe_for_sure() -> None:
    annotations, free, suppressed = planted(60, duplicates=0.5)
    trust = judge(annotations, free, suppressed)
    ap, with_nms = average_precision(free, annotations).ap, average_precision(suppressed, annotations).ap
    assert trust.ap == pytest.approx(ap, abs=1e-12)
    assert trust.gain.value == pytest.approx(with_nms - ap, abs=1e-12)
    assert 0.03 < trust.gain.low < trust.gain.value < trust.gain.high < 0.3
    assert (trust.verdict, trust.safe) == ("not yet", False)
    assert 0.2 < trust.duplicate_rate < 0.45
    assert trust.sentence().startswith("NMS-free not yet: NMS at IoU .6 adds AP for sure, +.")


def test_where_nms_changes_nothing_it_is_safe() -> None:
    annotations, _, same = planted(60)
    trust = judge(annotations, same, same)
    assert trust.gain == Interval(0.0, 0.0, 0.0)
    assert trust.safe
    assert trust.sentence() == ("NMS-free safe: NMS at IoU .6 would change AP by +.0000 (95% interval +.0000 to "
                                "+.0000 of 300 resamples, margin .005), duplicate rate .000.")


def test_few_duplicates_on_many_images_are_safe_and_on_few_nobody_knows() -> None:
    annotations, free, suppressed = planted(400, duplicates=0.002)
    large = judge(annotations, free, suppressed)
    assert 0 < large.gain.value < large.gain.high <= MARGIN
    assert large.verdict == "safe"
    small = judge(*planted(40, duplicates=0.02))
    assert small.gain.low <= MARGIN < small.gain.high
    assert small.verdict == "cannot tell"
    assert small.sentence().startswith("NMS-free not yet: this set is too small to tell; NMS at IoU .6 would change ")


def test_a_handful_of_images_is_never_enough() -> None:
    annotations, _, same = planted(FEWEST_IMAGES - 1)
    trust = judge(annotations, same, same)
    assert trust.images == 19
    assert trust.verdict == "cannot tell"
    assert "too small to tell, 19 images with objects where 20 are the fewest;" in trust.sentence()
    assert judge(*planted(6, duplicates=0.9)).verdict == "cannot tell"
    assert judge(*planted(FEWEST_IMAGES)).verdict == "safe"
    nothing = judge(annotated([], num_images=30), {}, {})
    assert nothing.verdict == "cannot tell"
    assert "holds no object; NMS at IoU .6 would change AP by - (95% interval - to -" in nothing.sentence()
    assert nothing.to_json()["gain"] == {"value": None, "low": None, "high": None}


def test_an_nms_that_costs_objects_makes_it_safe() -> None:
    annotations, free, suppressed = planted(40)
    fewer = {image: d.above(0.5) for image, d in suppressed.items()}
    trust = judge(annotations, free, fewer)
    assert trust.gain.high < 0
    assert trust.safe


def test_the_other_output_is_compared_and_does_not_decide() -> None:
    annotations, free, suppressed = planted(60, duplicates=0.5)
    behind = judge(annotations, suppressed, suppressed, other=("one2many", 0.5, free))
    ahead = judge(annotations, free, free, other=("one2many", 0.5, suppressed))
    assert behind.deficit is not None and ahead.deficit is not None
    assert behind.safe and ahead.safe
    assert behind.deficit.high < 0 < ahead.deficit.low
    assert ahead.deficit.value == -behind.deficit.value
    # The same images in each resample: the interval of the one is the other one's, mirrored.
    assert (ahead.deficit.low, ahead.deficit.high) == pytest.approx((-behind.deficit.high, -behind.deficit.low))
    assert " Against one2one without NMS, one2many with NMS at IoU .5 has -." in behind.sentence()
    record = json.loads(json.dumps(ahead.to_json(), allow_nan=False))
    assert record["deficit"]["low"] == ahead.deficit.low
    assert (record["other"], record["other_nms"], record["verdict"]) == ("one2many", 0.5, "safe")
    assert record["sentence"] == ahead.sentence()
    assert (record["resamples"], record["images"], record["confidence"]) == (300, 60, 0.95)


KNOWN = Trust("one2one", 0.4, 0.6, Interval(0.001, -0.001, 0.003), None, None, None, 0.09, MARGIN, 171, 1000)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.001, 0.005, "safe"), (-0.01, -0.005, "safe"), (-0.001, 0.0051, "cannot tell"), (0.005, 0.02, "cannot tell"),
     (0.0051, 0.02, "not yet"), (math.nan, math.nan, "cannot tell")],
)
def test_the_rule_at_its_edges(low: float, high: float, verdict: str) -> None:
    assert replace(KNOWN, gain=Interval(0.001, low, high)).verdict == verdict


def test_the_sentence_of_known_numbers() -> None:
    assert KNOWN.sentence() == ("NMS-free safe: NMS at IoU .6 would change AP by +.0010 (95% interval -.0010 to "
                                "+.0030 of 1,000 resamples, margin .005), duplicate rate .090.")


def test_a_network_that_finds_nothing_is_not_safe() -> None:
    weak = replace(KNOWN, ap=0.048)
    assert weak.verdict == "cannot tell"
    assert weak.sentence().startswith("NMS-free not yet: the network is too weak to tell, AP .0480; NMS ")
    assert replace(KNOWN, ap=0.0495).safe  # with NMS .0505, more than ten margins
    assert replace(KNOWN, ap=0.001, gain=Interval(0.02, 0.01, 0.03)).verdict == "not yet"


def test_the_margin_is_an_argument() -> None:
    annotations, free, suppressed = planted(60, duplicates=0.5)
    assert judge(annotations, free, suppressed, margin=0.4).verdict == "cannot tell"  # AP is below ten such margins
    assert judge(annotations, free, suppressed, margin=0.0).verdict == "not yet"
    with pytest.raises(ValueError, match="margin of at least 0, got -1"):
        judge(annotations, free, suppressed, margin=-1)


def test_the_seed_decides() -> None:
    case = planted(40, duplicates=0.3)
    assert judge(*case) == judge(*case)
    assert judge(*case).gain != judge(*case, seed=1).gain
