"""The one-to-many halves that a one-to-one detector can learn beside, by name or by a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bifocals.objective import DenseBranch
from bifocals.predict import Postprocess
from bifocals.train import find_recipe

from .assembly import MakePredictor
from .atss import ATSS_POSTPROCESS, atss_branch, atss_predictor
from .fcos import FCOS_POSTPROCESS, fcos_branch, fcos_predictor
from .retinanet import RETINA_POSTPROCESS, RetinaHead, retina_branch, retina_predictor


@dataclass(frozen=True)
class OneToMany:
    """What a recipe needs of a one-to-many half.

    predictor: channels and number of classes -> the predictor on the shared towers. branch: its weight (DATE's lambda)
    -> the branch. weight: lambda where the user names none. postprocess: of its output, when it is evaluated alone.
    """

    predictor: MakePredictor
    branch: Callable[[float], DenseBranch]
    postprocess: Postprocess
    weight: float = 1.0


def one2many_fcos() -> OneToMany:
    """DATE-F (arXiv:2211.13859): the first FCOS."""
    return OneToMany(fcos_predictor(tricks=False), lambda weight: fcos_branch(weight=weight), FCOS_POSTPROCESS)


def one2many_fcos_tricks() -> OneToMany:
    """The later FCOS: center sampling, GIoU, distances in strides. DATE's paper does not try it."""
    return OneToMany(
        fcos_predictor(tricks=True), lambda weight: fcos_branch(1.5, "giou", weight), replace(FCOS_POSTPROCESS, nms=0.6)
    )


def one2many_retina(head: RetinaHead = RetinaHead()) -> OneToMany:
    """DATE-R (arXiv:2211.13859): RetinaNet with 9 anchors, whose weight is 2 in the paper."""
    return OneToMany(retina_predictor(head), lambda weight: retina_branch(head, weight), RETINA_POSTPROCESS, 2.0)


def one2many_atss() -> OneToMany:
    """ATSS (arXiv:1912.02424), which DATE's paper does not try."""
    return OneToMany(atss_predictor(), lambda weight: atss_branch(weight=weight), ATSS_POSTPROCESS)


ONE_TO_MANY: Mapping[str, Callable[[], OneToMany]] = {
    "fcos": one2many_fcos, "fcos_tricks": one2many_fcos_tricks, "retina": one2many_retina, "atss": one2many_atss,
}  # fmt: skip


def find_one2many(choice: str, retina: RetinaHead = RetinaHead()) -> OneToMany:
    """The half that `choice` names: one of `ONE_TO_MANY`, or "FILE.py:FUNCTION" of a function that returns one.

    retina: anchors, matching and losses of the half "retina".
    """
    if ".py:" in choice:
        half = find_recipe(choice)()
        if not isinstance(half, OneToMany):
            raise ValueError(f"find_one2many expected {choice} to return a OneToMany, got {type(half).__name__}.")
        return half
    if choice not in ONE_TO_MANY:
        raise ValueError(f"find_one2many expected one of {list(ONE_TO_MANY)} or FILE.py:FUNCTION, got {choice!r}.")
    return one2many_retina(retina) if choice == "retina" else ONE_TO_MANY[choice]()
