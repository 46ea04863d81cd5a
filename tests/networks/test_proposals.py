"""Proposals of an RPN, by hand: levels, NMS, borders, ties."""

from __future__ import annotations

import pytest
import torch

from bifocals.networks import ProposalChoice
from bifocals.structures import DenseOutput, Priors

SIZE = (100, 100)


def output(boxes: list[tuple[float, ...]], logits: list[float], level_sizes: tuple[int, ...]) -> DenseOutput:
    made = torch.tensor(boxes)[None]
    priors = Priors(made[0, :, :2], torch.full((len(boxes),), 4.0), level_sizes, made[0])
    return DenseOutput(torch.tensor(logits)[None, :, None], torch.zeros_like(made), made, priors)


A, SHIFTED, B = (10.0, 10, 50, 50), (12.0, 10, 52, 50), (60.0, 60, 90, 90)  # A and SHIFTED: IoU 1520 / 1680 = .905


def test_nms_looks_at_one_level_at_a_time():
    together = ProposalChoice()(output([A, SHIFTED, B], [1.0, 2, 0], (3,)), [SIZE])[0]
    assert together.boxes.tolist() == [list(SHIFTED), list(B)]
    torch.testing.assert_close(together.scores, torch.tensor([2.0, 0.0]).sigmoid())
    apart = ProposalChoice()(output([A, SHIFTED, B], [1.0, 2, 0], (1, 2)), [SIZE])[0]
    assert apart.boxes.tolist() == [list(SHIFTED), list(A), list(B)]
    assert len(ProposalChoice(nms=0.95)(output([A, SHIFTED, B], [1.0, 2, 0], (3,)), [SIZE])[0]) == 3


def test_the_best_of_each_level_and_then_of_all():
    many = output([A, (70.0, 0, 99, 20), B, A], [3.0, 2, 1, 4], (3, 1))
    assert ProposalChoice(per_level=1)(many, [SIZE])[0].boxes.tolist() == [list(A), list(A)]
    assert ProposalChoice(keep=2)(many, [SIZE])[0].boxes.tolist() == [list(A), list(A)]
    assert len(ProposalChoice()(many, [SIZE])[0]) == 4


def test_boxes_end_where_their_image_ends():
    found = output([(-20.0, 30, 40, 300), (70, 10, 90, 30), (0, 0, 5, 90)], [3.0, 2, 1], (3,))
    assert ProposalChoice()(found, [(80, 60)])[0].boxes.tolist() == [[0, 30, 40, 80], [0, 0, 5, 80]]
    assert ProposalChoice(min_side=5)(found, [(80, 60)])[0].boxes.tolist() == [[0, 30, 40, 80]]  # not above 5
    assert len(ProposalChoice(min_side=200)(found, [SIZE])[0]) == 0


def test_images_of_a_batch_do_not_meet():
    one, other = output([A, SHIFTED], [1.0, 2], (2,)), output([B, A], [0.0, 1], (2,))
    both = DenseOutput(*(torch.cat([getattr(o, n) for o in (one, other)]) for n in ("logits", "deltas", "boxes")),
                       one.priors)
    found = ProposalChoice()(both, [SIZE, (80, 80)])
    assert found[0].boxes.tolist() == [list(SHIFTED)]
    assert found[1].boxes.tolist() == [list(A), [60, 60, 80, 80]]


def test_equal_scores_keep_the_order_of_the_anchors():
    # bfloat16 logits are full of equal numbers: which of them stay must not depend on the device.
    grid = [(float(x), 0.0, x + 4.0, 4.0) for x in range(0, 100, 5)]
    found = ProposalChoice(per_level=7)(output(grid, [0.5] * 20, (20,)), [SIZE])[0]
    assert sorted(found.boxes[:, 0].tolist()) == [0, 5, 10, 15, 20, 25, 30]


def test_what_is_not_a_number_is_no_proposal():
    found = ProposalChoice()(output([A, (torch.nan,) * 4, B], [1.0, 9, torch.nan], (3,)), [SIZE])[0]
    assert list(A) in found.boxes.tolist() and bool(found.boxes.isfinite().all())


def test_there_is_no_gradient():
    made = output([A, B], [1.0, 0], (2,))
    made.boxes.requires_grad_()
    assert not ProposalChoice()(made, [SIZE])[0].boxes.requires_grad


@pytest.mark.parametrize(("options", "message"), [
    ({"per_level": 0}, "per_level of at least 1, got 0"), ({"keep": 0}, "keep of at least 1, got 0"),
    ({"nms": 0.0}, "got 0.0"), ({"min_side": -1}, "min_side of 0 or more, got -1"),
])
def test_impossible_choices_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=f"ProposalChoice expected .*{message}"):
        ProposalChoice(**options)
