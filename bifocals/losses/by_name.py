"""Losses by the names that recipes offer on the command line, each with its source's defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, cast, get_args

from bifocals.structures import DeltaCoder, Loss, Normalizer

from .dr import DR
from .focal import Focal
from .ghm import GHM
from .hcra_c import HCRAC
from .hcra_r import HCRAR
from .iou import IoULoss
from .iou_kinds import IoUKind
from .pair_weight import PairWeight
from .quality_focal import QualityFocal, Varifocal
from .regression import BalancedL1, SmoothL1
from .wise_iou import WiseIoU

ClsLossName = Literal["focal", "qfl", "vfl", "dr", "ghm", "hcra"]
DeltaLossName = Literal["l1", "smooth_l1", "balanced_l1"]
BoxLossName = DeltaLossName | IoUKind | Literal["wiou_v3", "hcra"]


def named_cls_loss(name: ClsLossName, normalizer: Normalizer = "reduced") -> Loss:
    """A fresh loss of class logits.

    normalizer: how focal, qfl and vfl count positives (`Matched.normalizer`); dr, ghm and hcra have divisors of their
    own. dr needs a network that starts at a probability of .5 (see `DR`).
    """
    made: Mapping[str, Callable[[], Loss]] = {
        "focal": lambda: Focal(normalizer=normalizer),
        "qfl": lambda: QualityFocal(normalizer=normalizer),
        "vfl": lambda: Varifocal(normalizer=normalizer),
        "dr": DR,
        "ghm": GHM,
        "hcra": HCRAC,
    }
    if name not in made:
        raise ValueError(f"named_cls_loss knows {list(made)}, got {name!r}.")
    return made[name]()


def named_box_loss(
    name: BoxLossName,
    *,
    coder: DeltaCoder = DeltaCoder(),
    weight: PairWeight = "none",
    normalizer: Normalizer = "reduced",
    least: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.2,
) -> Loss:
    """A fresh loss of boxes.

    coder: how the predictor encodes deltas; used by l1, smooth_l1 and balanced_l1, which compare deltas and know no
    weight of pairs. weight, normalizer, least: see `weighted_mean`. beta: where smooth_l1 and balanced_l1 stop to be
    quadratic (detectors with anchors take 1/9). gamma: of hcra, 1.2 for RetinaNet, 1.5 for ATSS.
    """
    if name in get_args(DeltaLossName):
        if weight != "none":
            raise ValueError(f"named_box_loss expected weight 'none' for {name!r}, which compares deltas, "
                             f"got {weight!r}.")
        if name == "balanced_l1":
            return BalancedL1(beta=beta, coder=coder, normalizer=normalizer)
        return SmoothL1(0.0 if name == "l1" else beta, coder, normalizer)
    if name == "hcra":
        return HCRAR(gamma, weight=weight, normalizer=normalizer, least=least)
    if name == "wiou_v3":
        return WiseIoU(weight=weight, normalizer=normalizer, least=least)
    if name in get_args(IoUKind):
        return IoULoss(cast(IoUKind, name), weight, normalizer=normalizer, least=least)
    known = [*get_args(DeltaLossName), "hcra", "wiou_v3", *get_args(IoUKind)]
    raise ValueError(f"named_box_loss knows {known}, got {name!r}.")
