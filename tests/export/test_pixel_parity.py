"""What counts as the same label map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bifocals.export import PixelDifference, PixelMap, PixelTolerance, compare_maps

TOLERANCE = PixelTolerance(logit=0.1)


def one(*columns: tuple[float, ...], labels: tuple[int, ...] | None = None) -> PixelMap:
    """A row of pixels: the logits of each, and the largest unless labels say otherwise."""
    logits = torch.tensor(columns).t()[:, None]  # [C, 1, w]
    chosen: Tensor = logits.argmax(dim=0) if labels is None else torch.tensor([labels])
    return PixelMap(logits, chosen.to(torch.uint8))


FIRST = one((1.0, 0.0), (0.0, 1.0), (0.5, 0.6))


def test_equal_maps_are_equal_and_a_tie_is_no_pixel_to_ask() -> None:
    assert compare_maps([FIRST], [FIRST], TOLERANCE) == PixelDifference(0.0, 0, 1, 2, 0.0)


def test_a_tie_may_have_either_label() -> None:
    other = one((1.0, 0.0), (0.0, 1.0), (0.5, 0.6), labels=(0, 1, 0))
    found = compare_maps([FIRST], [other], TOLERANCE)
    assert found == PixelDifference(0.0, 0, 1, 2, 0.0)
    assert found.within(TOLERANCE)


def test_another_label_counts_where_one_class_is_clearly_ahead() -> None:
    other = one((1.0, 0.0), (0.0, 1.0), (0.5, 0.6), labels=(1, 1, 1))
    found = compare_maps([FIRST], [other], TOLERANCE)
    assert (found.other, found.compared, found.other_share) == (1, 2, 0.5)
    assert not found.within(TOLERANCE)
    # Two pixels of which each logit may move by .1: a lead of .2 is a tie, a little more is none.
    for lead, ties in ((0.19, 1), (0.21, 0)):
        assert compare_maps([one((lead, 0.0))], [one((lead, 0.0))], TOLERANCE).ties == ties


def test_the_greatest_difference_of_a_logit() -> None:
    other = one((1.0, 0.0), (0.0, 1.25), (0.5, 0.6))
    found = compare_maps([FIRST], [other], TOLERANCE)
    assert found.logit == pytest.approx(0.25)
    assert found.other == 0
    assert not found.within(TOLERANCE)


def test_nan_never_passes() -> None:
    broken = one((1.0, math.nan), (0.0, 1.0), (0.5, 0.6), labels=(0, 1, 1))
    for pair in ([FIRST, broken], [broken, FIRST]):
        found = compare_maps([FIRST, FIRST], pair, PixelTolerance(logit=1e9))
        assert math.isnan(found.logit)
        assert not found.within(PixelTolerance(logit=1e9))


def test_a_single_class_has_no_ties() -> None:
    assert compare_maps([one((1.0,), (2.0,))], [one((1.0,), (2.0,))], TOLERANCE) == PixelDifference(0.0, 0, 0, 2, 0.0)


def test_pictures_add_up() -> None:
    both = PixelDifference(0.1, 1, 2, 10, 0.1) | PixelDifference(0.2, 2, 3, 20, 0.1)
    assert both == PixelDifference(0.2, 3, 5, 30, 0.1)
    assert "3 of 30 pixels with another label, 5 ties" in both.sentence()
    with pytest.raises(ValueError, match="expected logit of at least 0, got -1"):
        PixelTolerance(logit=-1)
