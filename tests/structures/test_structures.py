"""Records and boxes: numbers by hand, and the properties that the rooms above rely on."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from bifocals.check.scene import scene_matched, scene_output, scene_target
from bifocals.structures import (
    Batch,
    Detections,
    Match,
    Matched,
    Matches,
    Target,
    area,
    boxes_from_distances,
    clip_boxes,
    distances_from_boxes,
    make_points,
    pad_targets,
    paired_iou,
    pairwise_iou,
    to_cxcywh,
)


def random_boxes(*shape: int) -> torch.Tensor:
    low = torch.rand(*shape, 2) * 50
    return torch.cat([low, low + torch.rand(*shape, 2) * 30 + 1], dim=-1)


def test_iou_agrees_with_torchvision_and_takes_batches():
    a, b = random_boxes(3, 7), random_boxes(3, 5)
    together = pairwise_iou(a, b)
    for i in range(3):
        torch.testing.assert_close(together[i], box_iou(a[i], b[i]))
    torch.testing.assert_close(paired_iou(a[:, :5], b), together.diagonal(dim1=1, dim2=2))


def test_boxes_without_area_overlap_nothing():
    flat = torch.tensor([[5.0, 5, 5, 5]])
    assert pairwise_iou(flat, flat).tolist() == [[0.0]]
    assert area(torch.tensor([[5.0, 5, 3, 9]])).tolist() == [0.0]


def test_distances_and_back():
    points = torch.tensor([[10.0, 20.0]])
    box = torch.tensor([[4.0, 5.0, 30.0, 45.0]])
    sides = distances_from_boxes(points, box)
    assert sides.tolist() == [[6, 15, 20, 25]]
    torch.testing.assert_close(boxes_from_distances(points, sides), box)
    assert to_cxcywh(box).tolist() == [[17, 25, 26, 40]]
    assert clip_boxes(torch.tensor([[-3.0, 2, 200, 50]]), (40, 100)).tolist() == [[0, 2, 100, 40]]


def test_points_by_hand():
    priors = make_points([(1, 2), (1, 1)], [8, 16])
    assert priors.points.tolist() == [[4, 4], [12, 4], [8, 8]]
    assert priors.strides.tolist() == [8, 8, 16]
    assert priors.level_index().tolist() == [0, 0, 1]
    assert len(priors) == 3
    assert make_points([(1, 2)], [8], offset=0.0).points.tolist() == [[0, 0], [8, 0]]


def test_targets_pad_and_drop_crowds():
    target = Target(random_boxes(3), torch.tensor([0, 1, 2]), torch.tensor([False, True, False]), (64, 64), (128, 32))
    kept = target.without_crowd()
    assert kept.labels.tolist() == [0, 2] and not kept.crowd.any()
    assert target.scale_xyxy == (2.0, 0.5, 2.0, 0.5)
    boxes, labels, real = pad_targets([kept, target])
    assert boxes.shape == (2, 3, 4) and real.tolist() == [[True, True, False], [True] * 3]
    assert labels[1].tolist() == [0, 1, 2]


def test_a_batch_needs_a_target_for_each_image():
    with pytest.raises(ValueError, match="got 1 targets for 2 images"):
        Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), (scene_target(1),))


def test_stacked_matches_come_apart_again():
    one = Match(torch.tensor([3, 5]), torch.tensor([0, 1]))
    ignore = torch.zeros(9, dtype=torch.bool)
    ignore[2] = True
    two = Match(torch.tensor([1]), torch.tensor([0]), ignore)
    together = Matches.stack([one, Match.empty("cpu"), two], 9)
    assert together.image.tolist() == [0, 0, 2]
    assert together.of_image(2).prior.tolist() == [1]
    assert together.ignore.sum().item() == 1 and bool(together.of_image(2).ignore[2])
    assert len(together.of_image(1).prior) == 0


def test_matched_gathers_what_belongs_together():
    matched = scene_matched((4, 0, 2))
    m = matched.matches
    for k in range(len(m)):
        i, p, g = int(m.image[k]), int(m.prior[k]), int(m.gt[k])
        assert torch.equal(matched.target_boxes[k], matched.targets[i].boxes[g])
        assert matched.target_labels[k] == matched.targets[i].labels[g]
        assert torch.equal(matched.boxes[k], matched.output.boxes[i, p])
        assert matched.class_targets[i, p, matched.target_labels[k]] == 1
    assert float(matched.num_positive) == len(m)
    assert matched.image_size_xyxy[0].tolist() == [128, 96, 128, 96]
    torch.testing.assert_close(
        matched.probability, matched.logits.sigmoid()[torch.arange(len(m)), matched.target_labels])


def test_best_iou_looks_at_the_own_image_alone():
    matched = scene_matched((4, 0, 2))
    best = matched.best_iou
    assert not best.requires_grad
    assert bool((best[1] == 0).all())
    for i in (0, 2):
        boxes = matched.output.boxes[i].detach()
        torch.testing.assert_close(best[i], box_iou(boxes, matched.targets[i].boxes).amax(1))


def test_num_positive_is_never_zero():
    empty = Matched(scene_output(1), [scene_target(0)], Matches.stack([Match.empty("cpu")], 257))
    assert float(empty.num_positive) == 1


def test_detections():
    found = Detections(random_boxes(3), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0, 1, 0]))
    assert len(found.above(0.3)) == 2
    assert len(Detections.empty()) == 0
