"""Dynamic R-CNN's threshold: by hand, over steps, across a checkpoint and ranks."""

from __future__ import annotations

import pytest
import torch

from bifocals.assign import FCOS, DynamicIoU, MaxIoU, Sampled
from bifocals.structures import Priors

from .test_max_iou import objects, priors

ONE = objects((0.0, 0, 10, 10))
FIVE = priors(*[(0.0, 0.0, 10.0, height) for height in (10, 8, 6, 4, 2)])  # IoU 1, .8, .6, .4, .2


def dynamic(**options) -> DynamicIoU:
    made = {"rank": 2, "every": 2, **options}
    return DynamicIoU(Sampled(MaxIoU(0.5, 0.5, False, 0.5), 8), **made)


def heights(*values: float) -> Priors:
    return priors(*[(0.0, 0.0, 10.0, v) for v in values])


def test_by_hand():
    part = dynamic()
    assert part(FIVE, ONE).prior.tolist() == [0, 1, 2]  # IoU above .5
    part.observe([FIVE, heights(10, 6)], [ONE, ONE])  # (.8 + .6) / 2
    assert float(part.threshold) == 0.5
    part.observe([heights(9)], [ONE])  # one proposal: the last there is
    assert float(part.threshold) == pytest.approx(0.8)
    match = part(heights(9, 7, 7.5, 2), ONE)
    assert match.prior.tolist() == [0] and not match.ignore.any()  # what lies below is background at once


def test_the_rule_of_the_original():
    part = dynamic(rule="original")
    assert float(part.threshold) == pytest.approx(0.4)
    # The fourth of 1, .8, .6, .4, .2 and 1, .6: 1, 1, .8, .6
    for _ in range(2):
        part.observe([FIVE, heights(10, 6)], [ONE, ONE])
    assert float(part.threshold) == pytest.approx(0.6)


def test_the_threshold_rises_with_the_proposals_and_has_a_floor():
    part = dynamic(rank=1, every=10, rule="original")
    seen = []
    for step in range(60):
        part.observe([heights(min(9.5, 1 + step / 6))], [ONE])
        seen.append(float(part.threshold))
    assert seen[8] == pytest.approx(0.4) == seen[28]  # the means .175, .34 are below .4
    steps = seen[9::10]
    assert steps == sorted(steps) and steps[-1] > 0.85
    assert len(set(seen)) == 5
    assert part.scheduled() == {"iou_threshold": steps[-1]}


def test_images_without_objects_count_as_overlap_zero_and_evaluation_notes_nothing():
    part = dynamic(every=1)
    part.observe([FIVE, FIVE], [ONE, objects()])
    assert float(part.threshold) == pytest.approx(0.4)
    part.eval()
    part.observe([FIVE], [ONE])
    assert float(part.threshold) == pytest.approx(0.4) and int(part.history.count) == 1


def test_a_checkpoint_goes_on_exactly():
    one, other = dynamic(every=4), dynamic(every=4)
    for k in range(3):
        one.observe([heights(4 + k, 9)], [ONE])
    other.load_state_dict(one.state_dict())
    for part in (one, other):
        for k in range(5):
            part.observe([heights(3 + k, 8)], [ONE])
    assert torch.equal(one.threshold, other.threshold) and float(one.threshold) > 0.5
    assert all(torch.equal(a, other.state_dict()[n]) for n, a in one.state_dict().items())


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="expected a sampled MaxIoU, got one of FCOS"):
        DynamicIoU(Sampled(FCOS()))
    with pytest.raises(ValueError, match="rank and every of 1 or more, got 0.4, 0"):
        dynamic(rank=0)
    with pytest.raises(ValueError, match="got 'both'"):
        dynamic(rule="both")
