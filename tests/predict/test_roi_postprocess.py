"""From regions to detections, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bifocals.predict import RoIPostprocess
from bifocals.structures import DeltaCoder, RoIOutput, Target

CODER = DeltaCoder((0.1, 0.1, 0.2, 0.2))


def target(size: tuple[int, int] = (100, 100), original: tuple[int, int] | None = None) -> Target:
    none = torch.zeros(0)
    return Target(none.reshape(0, 4), none.long(), none.bool(), size, original or size)


def output(probabilities: list[list[float]], rois: list[list[float]], image: list[int] | None = None, **fields):
    deltas = torch.zeros(len(rois), len(probabilities[0]) - 1, 4)
    return RoIOutput(torch.log(torch.tensor(probabilities)), deltas, torch.tensor(rois),
                     torch.tensor(image or [0] * len(rois)), CODER, **fields)


A, NEAR, FAR = [10.0, 10, 50, 50], [12.0, 10, 52, 50], [60.0, 60, 90, 90]


def test_softmax_threshold_and_background():
    (found,) = RoIPostprocess()(output([[0.3, 0.6, 0.1], [0.04, 0.06, 0.9]], [A, FAR]), [target()])
    assert found.labels.tolist() == [1, 0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.3, 0.06]))
    assert found.boxes.tolist() == [A, A, FAR]


def test_nms_is_of_a_class_and_of_an_image():
    made = output([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.7, 0.02, 0.28]], [A, NEAR, A], [0, 0, 1])
    first, second = RoIPostprocess()(made, [target(), target()])
    assert first.boxes.tolist() == [A, NEAR] and first.labels.tolist() == [0, 1]  # each the better one of its class
    assert second.boxes.tolist() == [A]
    kept = RoIPostprocess(nms=None)(made, [target(), target()])[0]
    assert [round(s, 2) for s in kept.scores.tolist()] == [0.6, 0.5, 0.4, 0.3]


def test_each_class_moves_the_region_in_its_own_way():
    made = output([[0.5, 0.4, 0.1]], [A])
    made.deltas[0, 1] = torch.tensor([2.5, 0, 5 * math.log(0.5), 0])  # a quarter to the right, half as wide
    (found,) = RoIPostprocess()(made, [target()])
    torch.testing.assert_close(found.boxes, torch.tensor([A, [30.0, 10, 50, 50]]))


def test_boxes_end_at_the_image_and_go_back_to_its_size():
    made = output([[0.9, 0.1]], [[30.0, -10, 90, 60]])
    (found,) = RoIPostprocess()(made, [target((50, 80), (100, 240))])
    assert found.boxes.tolist() == [[90, 0, 240, 100]]
    assert len(RoIPostprocess()(made, [target((50, 30))])[0]) == 0  # nothing is left of it


def test_limits():
    made = output([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1]], [A, FAR, [0.0, 60, 20, 90]])
    (found,) = RoIPostprocess(max_detections=2)(made, [target()])
    assert [round(s, 1) for s in found.scores.tolist()] == [0.7, 0.6]
    (few,) = RoIPostprocess(per_level=3, nms=None)(made, [target()])
    assert [round(s, 1) for s in few.scores.tolist()] == [0.7, 0.6, 0.5]
    equal = output([[0.5, 0.4, 0.1]] * 3, [FAR, A, [0.0, 60, 20, 90]])
    (found,) = RoIPostprocess()(equal, [target()])
    assert found.boxes[:3].tolist() == [FAR, A, [0, 60, 20, 90]]  # equal scores: in the order of the regions


def test_no_region_no_detection():
    nowhere = torch.zeros(0, dtype=torch.int64)
    none = RoIOutput(torch.zeros(0, 3), torch.zeros(0, 2, 4), torch.zeros(0, 4), nowhere, CODER)
    assert [len(d) for d in RoIPostprocess()(none, [target(), target()])] == [0, 0]


def test_masks_are_of_the_boxes_on_the_canvas():
    asked = []

    def mask_of(boxes, labels):
        asked.extend([b.tolist() for b in boxes])
        return [label[:, None, None].expand(-1, 2, 2).float() for label in labels]

    made = output([[0.3, 0.6, 0.1], [0.7, 0.2, 0.1]], [A, FAR], [0, 1], mask_of=mask_of)
    found = RoIPostprocess(0.5)(made, [target((100, 100), (200, 300)), target()])
    assert asked == [[A], [FAR]]  # whatever the size of the original image
    assert found[0].boxes.tolist() == [[30, 20, 150, 100]]
    assert found[0].masks.tolist() == [[[1, 1], [1, 1]]] and found[1].masks.tolist() == [[[0, 0], [0, 0]]]


def test_errors():
    with pytest.raises(ValueError, match="RoIPostprocess expected a target for each image, got 1 targets for RoIs of"):
        RoIPostprocess()(output([[0.9, 0.1]], [A], [1]), [target()])
    with pytest.raises(ValueError, match=r"score_threshold in \[0, 1\), got 1"):
        RoIPostprocess(1.0)
    with pytest.raises(ValueError, match=r"nms in \(0, 1\] or None, got 0"):
        RoIPostprocess(nms=0.0)
