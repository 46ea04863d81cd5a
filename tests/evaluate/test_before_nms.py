"""NMS-recall and rank correlation by hand, at their extremes, and inside an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bifocals.data import Input
from bifocals.evaluate import BeforeNMS, evaluate, rank_correlation
from bifocals.evaluate.before_nms import TAUS, Look, look_before_nms, without_limits
from bifocals.predict import Candidates, Postprocess, multi_scale

from . import bright_scenes

A, B = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def candidates(*rows: tuple[list[float], float, int]) -> Candidates:
    scores = torch.tensor([row[1] for row in rows])
    return Candidates(torch.tensor([row[0] for row in rows]).reshape(-1, 4), scores,
                      torch.tensor([row[2] for row in rows], dtype=torch.int64), scores)


def look(found: Candidates, *objects: tuple[list[float], int], nms: float | None = 0.5) -> Look:
    boxes = torch.tensor([box for box, _ in objects]).reshape(-1, 4)
    labels = torch.tensor([label for _, label in objects], dtype=torch.int64)
    return look_before_nms(without_limits(Postprocess(nms=nms)), found, boxes, labels)


def test_nms_recall_by_hand():
    # A: the best box of IoU .92 is suppressed by a surer one of IoU .79, so A is found after NMS up to .75 alone.
    # B: one box of IoU .69.
    found = candidates(([0.0, 0, 10, 7.9], 0.9, 0), ([0.0, 0, 10, 9.2], 0.6, 0), ([50.0, 50, 56.9, 60], 0.5, 0))
    seen = look(found, (A, 0), (B, 0))
    assert seen.before.tolist() == pytest.approx([0.92, 0.69]) and seen.after.tolist() == pytest.approx([0.79, 0.69])
    result = BeforeNMS.of([seen], 0.5)
    assert result.found_before.tolist() == [2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert result.found_after.tolist() == [2, 2, 2, 2, 1, 1, 0, 0, 0]
    assert result.nms_recall.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert result.mean_nms_recall == pytest.approx(6 / 9)
    assert TAUS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def test_any_class_finds_an_object_and_its_own_class_is_correlated():
    seen = look(candidates((A, 0.9, 1), (B, 0.8, 0)), (A, 0), (B, 0))
    assert seen.before.tolist() == [1, 1]
    assert seen.scores.tolist() == pytest.approx([0.8]) and seen.ious.tolist() == [1]


def test_sure_boxes_on_the_mark_and_the_reverse():
    # Ten boxes that leave A step by step.
    boxes = [[float(i) / 2, 0, 10 + float(i) / 2, 10] for i in range(10)]
    for scores, expected in ((range(10, 0, -1), 1.0), (range(10), -1.0)):
        found = candidates(*[(box, 0.06 + s / 20, 0) for box, s in zip(boxes, scores, strict=True)])
        result = BeforeNMS.of([look(found, (A, 0))], 0.5)
        assert result.correlation == pytest.approx(expected) and result.correlation_50 == pytest.approx(expected)
        assert (result.boxes, result.boxes_50) == (10, 7)  # IoU above .5 up to a shift of 3


def test_rank_correlation_is_spearmans():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 8, 50).astype(float), draw.integers(0, 8, 50).astype(float)  # with ties
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    for some in (np.zeros(0), np.zeros(1), np.ones(3)):
        assert math.isnan(rank_correlation(some, some))


def test_nothing_found_and_nothing_there():
    empty = candidates()
    nothing = BeforeNMS.of([look(empty, (A, 0)), look(empty), look(candidates((A, 0.9, 0)))], 0.5)
    assert nothing.objects == 1 and nothing.boxes == 0 and math.isnan(nothing.mean_nms_recall)
    record = json.loads(json.dumps(nothing.to_json()))
    assert record["mean_nms_recall"] is None and record["nms_recall"]["0.90"] is None
    assert record["correlation"] is None and record["found_before"] == [0] * 9
    assert BeforeNMS.of([], 0.5).objects == 0


def test_looks_have_no_limits_but_the_score():
    wide = without_limits(Postprocess(0.01, 100, 100, None))
    assert (wide.score_threshold, wide.nms) == (0.05, 0.6) and wide.max_detections >= 5 * wide.per_level >= 50_000
    assert without_limits(Postprocess(0.3, nms=0.4)).score_threshold == 0.3
    assert without_limits(Postprocess(nms=0.4)).nms == 0.4


def test_in_an_evaluation(tmp_path: Path):
    annotations = bright_scenes.draw_set(tmp_path, 6)
    plain = bright_scenes.run(annotations, output="suppressed", batch_size=4)
    found = bright_scenes.run(annotations, output="suppressed", batch_size=4, analysis=True)
    free = bright_scenes.run(annotations, batch_size=3, analysis=True)
    assert plain.analysis is None and found.stats == plain.stats
    # Each object has its cell, surer than the one a pixel beside it, which has IoU 7/9: all is found, sure is right.
    before = found.analysis.before_nms
    assert before.objects == len(annotations.labels) and before.mean_nms_recall == 1
    assert before.nms == free.analysis.before_nms.nms == 0.6
    assert free.analysis.before_nms.boxes_50 == before.boxes_50 == 2 * before.objects
    assert 0 < before.correlation <= 1
    np.testing.assert_allclose(found.analysis.errors.areas[0, 1], found.result.class_ap50[0], atol=1e-9)
    assert np.isnan(found.analysis.errors.areas[1]).all()
    record = json.loads(json.dumps(found.to_json()))
    assert record["analysis"]["before_nms"]["mean_nms_recall"] == 1 and record["views"] is None
    assert record["analysis"]["errors"]["per_class"]["never"]["C50"] is None
    assert "error split" in found.summary() and "NMS-recall at NMS 0.6: mean 1.000" in found.summary()


def views_of(annotations, output: str, factors: tuple[float, ...], flip: bool = False, **settings):
    views = multi_scale(Input(short=32, long=64), factors, flip=flip)
    return evaluate(bright_scenes.Bright(), annotations, transform=bright_scenes.TRANSFORM,
                    postprocess=bright_scenes.POSTPROCESS, output=output, views=views, **settings)


def test_one_view_of_an_evaluation_is_the_plain_one(tmp_path: Path):
    annotations = bright_scenes.draw_set(tmp_path, 6)
    plain = bright_scenes.run(annotations, output="free", nms=0.6, batch_size=4)
    for output in ("free", "suppressed"):
        one = views_of(annotations, output, (1.0,), batch_size=4)
        assert one.stats == plain.stats and one.nms == 0.6 and one.suppressed is None and one.trust is None
        for image_id, detections in plain.detections.items():
            assert torch.equal(one.detections[image_id].boxes, detections.boxes)
            assert torch.equal(one.detections[image_id].scores, detections.scores)
    # An output without NMS is told what it was given.
    assert "NMS 0.6 merges what they find; a single look at this output needs none" in one_line(
        views_of(annotations, "free", (1.0, 2.0), flip=True).summary())
    assert "needs none" not in views_of(annotations, "suppressed", (1.0, 2.0)).summary()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_views_see_every_image_once(tmp_path: Path):
    annotations = bright_scenes.draw_set(tmp_path, 5)
    three = views_of(annotations, "suppressed", (1.0, 1.5, 2.0), flip=True, batch_size=2)
    workers = views_of(annotations, "suppressed", (1.0, 1.5, 2.0), flip=True, batch_size=2, workers=1)
    assert set(three.detections) == set(annotations.image_ids.tolist()) and three.stats == workers.stats
    assert three.views == "3 scales (32, 48, 64), mirrored too: NMS 0.6 merges what they find"
    with pytest.raises(ValueError, match="views or analysis, got both"):
        views_of(annotations, "suppressed", (1.0,), analysis=True)
