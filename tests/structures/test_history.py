"""The window of numbers."""

from __future__ import annotations

import math

import torch

from bifocals.structures import History


def note(history: History, *values: float) -> list[bool]:
    return [bool(history.note(torch.tensor(v))) for v in values]


def test_a_window_fills_and_starts_anew():
    history = History(3)
    assert math.isnan(history.mean()) and math.isnan(history.median())
    assert note(history, 1.0, 2.0) == [False, False]
    assert history.mean() == 1.5
    assert note(history, 6.0) == [True]
    assert history.mean() == 3.0 and history.median() == 2.0 == history.median(upper=True)
    assert note(history, 7.0, 8.0, 9.0) == [False, False, True]
    assert history.mean() == 8.0


def test_even_medians_and_nothing_to_note():
    history = History(4)
    assert note(history, 4.0, 1.0, 3.0, 2.0) == [False, False, False, True]
    assert history.median() == 2.5 and history.median(upper=True) == 3.0
    assert note(history, math.nan, 5.0, math.nan, math.nan) == [False, False, False, True]
    assert history.mean() == 5.0 == history.median() == history.median(upper=True)
    assert note(history, *[math.nan] * 4) == [False, False, False, True]
    assert math.isnan(history.mean()) and math.isnan(history.median())


def test_state_survives():
    history, other = History(3), History(3)
    note(history, 1.0, 2.0)
    other.load_state_dict(history.state_dict())
    assert note(history, 6.0) == note(other, 6.0) == [True]
    assert torch.equal(history.values, other.values)


def test_ranks_note_their_mean_and_one_that_has_nothing_leaves_it_to_the_other(monkeypatch):
    others = iter([5.0, math.nan, 5.0, math.nan])

    def both(mine: torch.Tensor) -> torch.Tensor:
        other = next(others)
        return mine + torch.tensor([0.0, 0.0] if math.isnan(other) else [other, 1.0])

    monkeypatch.setattr("bifocals.structures.history.sum_over_ranks", both)
    history = History(4)
    assert note(history, 1.0, 2.0, math.nan, math.nan) == [False, False, False, True]
    assert history.values[:3].tolist() == [3.0, 2.0, 5.0] and history.values[3].isnan()
