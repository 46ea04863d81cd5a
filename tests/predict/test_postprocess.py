"""From outputs to detections: golden cases, hand-worked cases, and properties."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bifocals.predict import Postprocess
from bifocals.structures import DenseOutput, Detections, Target, boxes_from_distances, make_points

STRIDES = (8, 16, 32, 64, 128)


def target(size_hw: tuple[int, int], original_hw: tuple[int, int] | None = None) -> Target:
    none = torch.zeros(0)
    return Target(none.reshape(0, 4), none.long(), none.bool(), size_hw, original_hw or size_hw)


def drawn(
    images: int = 2, classes: int = 4, hw: tuple[int, int] = (96, 128), steps: int = 1_000_000, quality: bool = False
) -> DenseOutput:
    """A random output. `steps` is the number of different logits, to make equal ones."""
    priors = make_points([(-(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES], STRIDES)
    logits = torch.randint(steps, (images, len(priors), classes)) / steps * 8 - 7
    sides = torch.rand(images, len(priors), 4) * 3 * priors.strides[:, None]
    boxes = boxes_from_distances(priors.points, sides)
    return DenseOutput(logits, sides, boxes, priors, torch.randn(images, len(priors)) if quality else None)


def by_hand(logits: Tensor, boxes: list[list[float]], quality: list[float] | None = None) -> DenseOutput:
    """An output of one image with one prior a box, all in one level."""
    number = len(boxes)
    priors = make_points([(1, number)], [8])
    made = torch.tensor([boxes], dtype=torch.float32)
    return DenseOutput(logits[None], made, made, priors, None if quality is None else torch.tensor([quality]))


def logit(*probabilities: float) -> Tensor:
    return torch.logit(torch.tensor(probabilities))


def same(a: Detections, b: Detections) -> None:
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.boxes, b.boxes)
    # The sigmoid of torch differs in its last bit between a full vector register and the rest of an array.
    torch.testing.assert_close(a.scores, b.scores, rtol=2e-7, atol=0)


@dataclass(frozen=True)
class Scaled(Target):
    """The recorded scale factors are no ratios of whole pixels."""

    scale: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    @property
    def scale_xyxy(self) -> tuple[float, float, float, float]:
        return self.scale


@pytest.mark.parametrize("case", ["date_o2o_coco", "date_o2o_crowdhuman", "fcos", "fcos_pre60"])
def test_golden(shared: Path, case: str) -> None:
    arrays = np.load(shared / "golden" / "postprocess" / f"{case}.npz")
    settings = json.loads((shared / "golden" / "postprocess" / f"{case}.json").read_text())["hyperparameters"]

    def levels(name: str) -> Tensor:
        return torch.cat([torch.from_numpy(arrays[f"{name}_{i}"]).flatten(2).transpose(1, 2) for i in range(5)], dim=1)

    priors = make_points([arrays[f"ltrb_{i}"].shape[2:] for i in range(5)], STRIDES)
    quality = levels("ctr_logits")[..., 0] if "ctr_logits_0" in arrays else None
    sides = levels("ltrb")
    output = DenseOutput(levels("cls_logits"), sides, boxes_from_distances(priors.points, sides), priors, quality)
    targets = []
    for size, factors in zip(arrays["img_shapes"].tolist(), arrays["scale_factors"].tolist(), strict=True):
        x, y = factors[:2]
        base = target((size[0], size[1]))
        targets.append(Scaled(base.boxes, base.labels, base.crowd, base.size_hw, base.original_hw, scale=(x, y, x, y)))
    process = Postprocess(
        settings["score_thr"], settings["nms_pre"], settings["max_per_img"], settings.get("nms_iou")
    )
    for image, found in enumerate(process(output, targets)):
        if f"img{image}_dets" in arrays:
            boxes, scores = np.split(arrays[f"img{image}_dets"], [4], axis=1)
        else:
            boxes, scores = arrays[f"img{image}_boxes"], arrays[f"img{image}_scores"]
        np.testing.assert_array_equal(found.labels, arrays[f"img{image}_labels"])
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(found.scores, scores.reshape(-1), rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("steps", [20, 300, 1_000_000])
@pytest.mark.parametrize(("per_level", "limit"), [(50, 50), (1000, 30), (100, 2000)])
def test_the_fast_path_is_exact(classes: int, steps: int, per_level: int, limit: int) -> None:
    """The best of all levels at once equals level by level whenever per_level >= max_detections, ties included."""
    output = drawn(classes=classes, steps=steps)
    targets = [target((90, 120), (200, 300)), target((96, 100))]
    process = Postprocess(0.05, per_level, limit)
    for image, fast in enumerate(process(output, targets)):
        same(fast, process.choose(process.candidates(output, image, targets[image])))
        assert len(fast) > 20


def test_per_level_binds_before_the_levels_are_joined() -> None:
    output = drawn(images=1)
    found = Postprocess(0.0, 3, 100)(output, [target((96, 128))])[0]
    assert len(found) == 3 * 5
    ends = np.cumsum(output.priors.level_sizes)
    best = [output.logits[0, end - size : end].flatten().topk(3).values for end, size in
            zip(ends, output.priors.level_sizes, strict=True)]
    expected = torch.cat(best).sigmoid().sort(descending=True).values
    torch.testing.assert_close(found.scores, expected)


def test_threshold_and_selection_look_at_the_class_and_the_score_at_the_quality() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]
    output = by_hand(logit(0.9, 0.5, 0.2, 0.04)[:, None], boxes, [-4.0, 2.0, 0.0, 9.0])
    for nms in (None, 0.6):
        found = Postprocess(0.05, 1000, 100, nms)(output, [target((100, 100))])[0]
        assert found.boxes[:, 0].tolist() == [20, 40, 0]  # .5 * .88, .2 * .5, .9 * .018; .04 is below the threshold
        torch.testing.assert_close(found.scores, torch.tensor([0.440399, 0.1, 0.016188]), rtol=1e-4, atol=0)
        # The two with the best class stay, whatever their quality.
        best = Postprocess(0.05, 2, 100, nms)(output, [target((100, 100))])[0]
        assert best.boxes[:, 0].tolist() == [20, 0]


def test_nms_is_class_wise_and_keeps_the_better_one() -> None:
    # IoU of the first two boxes: 80 / 120 = .667.
    boxes = [[0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60]]
    logits = torch.stack([logit(0.6, 0.7, 0.3), logit(0.02, 0.5, 0.02)], dim=1)
    found = Postprocess(0.05, 1000, 100, 0.6)(by_hand(logits, boxes), [target((100, 100))])[0]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.boxes[:, 1].tolist() == [2, 2, 50]
    assert len(Postprocess(0.05, 1000, 100, 0.7)(by_hand(logits, boxes), [target((100, 100))])[0]) == 4
    assert len(Postprocess(0.05, 1000, 100, None)(by_hand(logits, boxes), [target((100, 100))])[0]) == 4


def test_boxes_without_area_stay_without_nms_and_go_with_it() -> None:
    output = by_hand(logit(0.9, 0.8)[:, None], [[120, 0, 130, 10], [0, 0, 10, 10]])  # the first lies in the padding
    free = Postprocess(0.05, 100, 100)(output, [target((100, 100))])[0]
    assert free.boxes.tolist() == [[100, 0, 100, 10], [0, 0, 10, 10]]
    assert Postprocess(0.05, 100, 100, 0.6)(output, [target((100, 100))])[0].boxes.tolist() == [[0, 0, 10, 10]]


def test_boxes_are_cut_to_the_resized_image_and_mapped_to_the_original() -> None:
    output = by_hand(logit(0.9)[:, None], [[-5, 10, 200, 60]])
    for nms in (None, 0.5):
        found = Postprocess(0.05, 100, 100, nms)(output, [target((50, 100), (100, 400))])[0]
        assert found.boxes.tolist() == [[0, 20, 400, 100]]


def test_equal_scores_keep_the_order_of_prior_and_class() -> None:
    boxes = [[20.0 * i, 0, 20 * i + 10, 10] for i in range(6)]
    for nms in (None, 0.5):
        found = Postprocess(0.05, 1000, 5, nms)(by_hand(torch.zeros(6, 2), boxes), [target((200, 200))])[0]
        assert found.boxes[:, 0].tolist() == [0, 0, 20, 20, 40]
        assert found.labels.tolist() == [0, 1, 0, 1, 0]


def test_nothing_above_the_threshold_is_an_empty_result() -> None:
    output = drawn(quality=True)
    quiet = DenseOutput(output.logits - 20, output.deltas, output.boxes, output.priors)
    for dense in (quiet, DenseOutput(quiet.logits, quiet.deltas, quiet.boxes, quiet.priors, output.quality)):
        for nms in (None, 0.5):
            found = Postprocess(nms=nms)(dense, [target((96, 128))] * 2)
            assert [len(d) for d in found] == [0, 0]
            assert found[0].boxes.shape == (0, 4)


@pytest.mark.parametrize("nms", [None, 0.5])
@pytest.mark.parametrize("quality", [False, True])
def test_a_batch_of_two_is_two_of_one(nms: float | None, quality: bool) -> None:
    output = drawn(quality=quality)
    targets = [target((90, 120), (200, 300)), target((96, 100))]
    together = Postprocess(nms=nms)(output, targets)
    for i in range(2):
        part = None if output.quality is None else output.quality[i : i + 1]
        rows = slice(i, i + 1)
        one = DenseOutput(output.logits[rows], output.deltas[rows], output.boxes[rows], output.priors, part)
        same(Postprocess(nms=nms)(one, [targets[i]])[0], together[i])


def test_a_candidate_at_the_threshold_does_not_pass() -> None:
    output = by_hand(torch.zeros(1, 1), [[0, 0, 10, 10]])  # a probability of exactly .5
    for nms in (None, 0.5):
        assert len(Postprocess(0.5, 100, 100, nms)(output, [target((100, 100))])[0]) == 0
        assert len(Postprocess(0.4999, 100, 100, nms)(output, [target((100, 100))])[0]) == 1
        assert len(Postprocess(0.0, 100, 100, nms)(output, [target((100, 100))])[0]) == 1


def test_half_precision_gives_float32() -> None:
    output = drawn()
    half = DenseOutput(output.logits.bfloat16(), output.deltas, output.boxes.bfloat16(), output.priors)
    for nms in (None, 0.5):
        found = Postprocess(nms=nms)(half, [target((96, 128))] * 2)[0]
        assert found.scores.dtype == found.boxes.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"score_threshold": 1.0}, "score_threshold in"),
        ({"score_threshold": float("nan")}, "score_threshold in"),
        ({"per_level": 0}, "per_level of at least 1"),
        ({"max_detections": -1}, "max_detections of at least 1"),
        ({"nms": 0.0}, "nms in"),
        ({"nms": 1.5}, "nms in"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Postprocess(**settings)  # type: ignore[arg-type]


def test_a_target_for_each_image() -> None:
    with pytest.raises(ValueError, match="got 1 targets for 2 images"):
        Postprocess()(drawn(), [target((96, 128))])
