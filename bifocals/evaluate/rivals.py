"""Assigners to compare a network's own with, and the priors that they look at.

Letters: P priors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal

import torch

from bifocals.assign import ATSS, EATSS, FCOS, POTO, Bags, MaxIoU, MinCost, POTOAux
from bifocals.structures import Anchors, Assigner, Priors

PriorKind = Literal["own", "points", "square", "anchors"]
"""What an assigner looks at: the network's priors as they are; one point a place; one square anchor a point; anchors.
"""

SQUARE = Anchors(8.0, 1, (1.0,), offset=0.5)
"""ATSS's anchor, one square of 8 strides, around a point that stays where it is."""

NINE = Anchors(offset=0.5)
"""RetinaNet's nine, around a point that stays where it is."""


@dataclass(frozen=True)
class Rival:
    """An assigner and the priors that suit it."""

    assigner: Assigner
    priors: PriorKind = "own"


RIVALS: Mapping[str, Callable[[], Rival]] = {
    "atss": lambda: Rival(ATSS(), "square"),
    "eatss": lambda: Rival(EATSS(), "square"),
    "fcos": lambda: Rival(FCOS(), "points"),
    "poto": lambda: Rival(POTO()),
    "poto_aux": lambda: Rival(POTOAux()),
    "min_cost": lambda: Rival(MinCost()),
    "max_iou": lambda: Rival(MaxIoU(), "anchors"),
    "bags": lambda: Rival(Bags(), "anchors"),
}  # fmt: skip
"""By the names of the command line, with the defaults of their papers. Those that look at predictions need "own"."""


def priors_for(kind: PriorKind, own: Priors) -> tuple[Priors, str]:
    """The priors of a kind for a network with the priors `own`, and what they are in words.

    The network's own serve where they are of the kind. Else the priors are made at the points of its pyramid, which
    then stay where they are: of a network with one prior a point, prior number p is still the one that prediction
    number p belongs to (`same_places`).
    """
    one_each = _anchors_of_a_point(own) == 1
    match kind:
        case "own":
            return own, "the network's own"
        case "points":
            return (own, "the network's own") if one_each else (places_of(own), "one point a place of the pyramid")
        case "square":
            if own.boxes is not None and one_each and _is_square(own):
                return own, "the network's own"
            return SQUARE.at(places_of(own)), "one square anchor of 8 strides a point"
        case "anchors":
            if own.boxes is not None:
                return own, "the network's own"
            return NINE.at(places_of(own)), "nine anchors a point, as RetinaNet has"
    raise ValueError(f"priors_for knows own, points, square and anchors, got {kind!r}.")


def same_places(one: Priors, other: Priors) -> bool:
    """Whether prior number p stands at the same point in both."""
    return one.level_sizes == other.level_sizes and bool(torch.equal(one.points, other.points))


def places_of(priors: Priors) -> Priors:
    """The points of a pyramid, each once, without anchors: those of a place follow each other."""
    kept, sizes = [], []
    for start, size in zip(priors.level_starts, priors.level_sizes, strict=True):
        points = priors.points[start : start + size]
        new = torch.ones(size, dtype=torch.bool, device=points.device)
        new[1:] = (points[1:] != points[:-1]).any(dim=1)
        kept.append(new)
        sizes.append(int(new.sum()))
    chosen = torch.cat(kept)
    return Priors(priors.points[chosen], priors.strides[chosen], tuple(sizes))


def describe(part: Any) -> str:
    """The class of a part, and those of its fields that are not at their defaults: `FCOS(center_radius=1.5)`."""
    if not is_dataclass(part) or isinstance(part, type):
        return getattr(part, "__name__", type(part).__name__)

    def usual(field: Field[Any]) -> Any:
        return field.default if field.default_factory is MISSING else field.default_factory()

    named = [f.name for f in fields(part) if f.init and getattr(part, f.name) != usual(f)]
    values = [f"{name}={describe(v) if is_dataclass(v := getattr(part, name)) else repr(v)}" for name in named]
    return f"{type(part).__name__}({', '.join(values)})" if values else type(part).__name__


def _anchors_of_a_point(priors: Priors) -> float:
    return len(priors) / len(places_of(priors)) if len(priors) else 1


def _is_square(priors: Priors) -> bool:
    assert priors.boxes is not None
    sides = priors.boxes[:, 2:] - priors.boxes[:, :2]
    return bool(torch.allclose(sides[:, 0], sides[:, 1], rtol=1e-4))
