"""Replays the priors."""

from __future__ import annotations

from bifocals.structures import make_points

from .case import Case


def points(case: Case) -> None:
    sizes = [tuple(s) for s in case.input("feature_sizes").tolist()]
    priors = make_points(sizes, case.input("strides").tolist(), float(case.input("offset")))
    for i, level in enumerate(priors.points.split(priors.level_sizes)):
        case.check(f"points_{i}", level)
