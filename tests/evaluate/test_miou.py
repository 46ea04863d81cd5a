"""Confusion and what follows from it, and outlines, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from bifocals.evaluate import Confusion, boundary_confusion, boundary_iou, confusion_matrix, outline
from bifocals.evaluate.boundary_iou import outline_width


def map_of(*rows: str) -> Tensor:
    """A label map written as digits; x does not count."""
    return torch.tensor([[255 if c == "x" else int(c) for c in row] for row in rows], dtype=torch.uint8)


def test_rows_are_truth_and_columns_prediction():
    counts = confusion_matrix(map_of("0011x", "0012x"), map_of("0111x", "00120"), 3)
    assert counts.tolist() == [[3, 1, 0], [0, 3, 0], [0, 0, 1]]


def test_numbers_by_hand():
    """Class 2 never occurs but is predicted, class 3 neither: IoU 0 and none at all."""
    found = Confusion(torch.tensor([[6, 2, 0, 0], [1, 9, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    nan = math.nan
    assert found.iou.tolist() == pytest.approx([6 / 9, 9 / 14, 0, nan], nan_ok=True)
    assert found.miou == pytest.approx((6 / 9 + 9 / 14 + 0) / 3)
    assert found.accuracy.tolist() == pytest.approx([6 / 8, 9 / 12, nan, nan], nan_ok=True)
    assert found.mean_accuracy == pytest.approx(0.75)
    assert found.precision.tolist() == pytest.approx([6 / 7, 9 / 11, 0, nan], nan_ok=True)
    assert found.pixel_accuracy == pytest.approx(15 / 20)
    assert found.dice.tolist() == pytest.approx([12 / 15, 18 / 23, 0, nan], nan_ok=True)
    assert found.frequency_weighted_iou == pytest.approx(8 / 20 * 6 / 9 + 12 / 20 * 9 / 14)
    assert found.micro_f1 == pytest.approx(15 / 20)


def test_bisenets_rule_adds_a_pixel_to_every_union():
    found = Confusion(torch.tensor([[6, 2], [1, 9]]), "plus_one")
    assert found.iou.tolist() == pytest.approx([6 / 10, 9 / 13])
    with pytest.raises(ValueError, match="knows the rules"):
        Confusion(torch.zeros(2, 2, dtype=torch.int64), "smooth")


def test_matrices_add_up():
    generator = torch.Generator().manual_seed(1)
    truth, predicted = (torch.randint(0, 5, (40, 30), dtype=torch.uint8, generator=generator) for _ in range(2))
    truth[truth == 4] = 255
    predicted = predicted.clamp(max=3)
    whole = confusion_matrix(truth, predicted, 4)
    parts = sum(confusion_matrix(truth[rows], predicted[rows], 4) for rows in (slice(0, 13), slice(13, 40)))
    assert torch.equal(whole, parts)
    assert int(whole.sum()) == int((truth != 255).sum())
    classes = torch.tensor([2, 0, 3, 1], dtype=torch.uint8)
    renamed = confusion_matrix(torch.where(truth == 255, truth, classes[truth.clamp(max=3).int()]),
                               classes[predicted.int()], 4)
    torch.testing.assert_close(Confusion(renamed).iou[classes.int()], Confusion(whole).iou)


def test_nothing_that_counts_is_no_number():
    found = Confusion(confusion_matrix(map_of("xx"), map_of("01"), 2))
    assert math.isnan(found.miou) and math.isnan(found.pixel_accuracy)


def test_maps_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="maps of one size, got labels of \\[1, 2\\] and a prediction of \\[1, 3\\]"):
        confusion_matrix(map_of("00"), map_of("000"), 2)
    with pytest.raises(ValueError, match="classes from 0 to 1, .* got others: labels \\[3\\]"):
        confusion_matrix(map_of("03x"), map_of("010"), 2)
    with pytest.raises(ValueError, match="got others: predictions \\[2\\]"):
        confusion_matrix(map_of("00"), map_of("02"), 2)


@pytest.mark.parametrize("width", [1, 2, 3, 6, 19, 20, 25])
def test_an_outline_is_what_erosions_take_away(width):
    """The authors' way: each class's mask, framed by nothing, eroded by 3x3 `width` times."""
    coarse = torch.randint(0, 4, (1, 1, 7, 9), generator=torch.Generator().manual_seed(3)).float()
    labels = torch.nn.functional.interpolate(coarse, scale_factor=6.0).to(torch.uint8)[0, 0, :40]
    expected = np.zeros(labels.shape, dtype=bool)
    for label in range(4):
        mask = labels.numpy() == label
        expected |= mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width)
    assert np.array_equal(outline(labels, width).numpy(), expected)


def test_boundary_iou_by_hand():
    """7x12, so the outline is one pixel wide: the frame, and both sides of the border between the classes.

    Truth has the border between columns 5 and 6, the prediction between 6 and 7. Of the 84 pixels the outlines of
    class 0 are 2 * 6 + 5 + 5 = 22 and 2 * 7 + 5 + 5 = 24; they share the frame, 2 * 6 + 5 = 17. Those of class 1 are
    22 and 20, and share 2 * 5 + 5 = 15.
    """
    truth, predicted = map_of(*["000000111111"] * 7), map_of(*["000000011111"] * 7)
    assert outline_width((7, 12)) == 1
    counts = boundary_confusion(truth, predicted, 2)
    assert boundary_iou(counts).tolist() == pytest.approx([17 / (22 + 24 - 17), 15 / (22 + 20 - 15)])
    assert boundary_iou(boundary_confusion(truth, truth, 2)).tolist() == [1, 1]
    assert int(counts.sum()) == 84


def test_pixels_that_do_not_count_have_no_outline():
    truth, predicted = map_of(*["0000xx1111"] * 8), map_of(*["0000011111"] * 8)
    assert boundary_iou(boundary_confusion(truth, predicted, 3)).tolist() == pytest.approx([1, 1, math.nan],
                                                                                         nan_ok=True)


def test_two_percent_of_the_diagonal():
    assert outline_width((360, 480)) == 12
    assert outline_width((1024, 2048), 0.005) == 11
    assert outline_width((4, 4)) == 1
