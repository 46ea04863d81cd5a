"""OneNet: end-to-end one-stage detection by classification cost, arXiv:2012.05780."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from bifocals.assign import POTO, MinCost
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import L1, Focal, IoULoss
from bifocals.networks import Backbone, PointPredictor, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.structures import Assigner, Loss
from bifocals.train import Experiment, Optim

from .assembly import dense_network, start_from
from .balanced import balanced

Matching = Literal["poto", "poto_minus_one", "hungarian", "argmin"]
BoxFormat = Literal["cxcywh", "xyxy"]

ONE2ONE_POSTPROCESS = Postprocess(score_threshold=0.01, per_level=100, max_detections=100, nms=None)


def one2one_predictor(channels: int, num_classes: int) -> PointPredictor:
    """Two convolutions: classes, and distances relu(s x) * stride."""
    return PointPredictor(channels, num_classes, "relu")


def one2one_branch(
    matching: Matching, weight: float = 1.0, *, poto: POTO = POTO(), l1: BoxFormat = "cxcywh"
) -> DenseBranch:
    """Focal loss of weight 2, L1 of weight 5 and GIoU of weight 2 (arXiv:2211.13859, Eq. 2), times `weight`.

    poto: of the two matchings by POTO; poto_minus_one sets its `outside`. l1: the boxes of the L1 loss, and of the L1
    cost where the matching has one.
    """
    assigner: Assigner
    match matching:
        case "poto":
            assigner = poto
        case "poto_minus_one":
            assigner = replace(poto, outside="minus_one")
        case "hungarian" | "argmin":
            assigner = MinCost(box_format=l1, solver=matching)
        case _:
            raise ValueError(f"One-to-one matching is one of {get_args(Matching)}, got {matching!r}.")
    losses: dict[str, Loss] = {"cls": Focal(), "l1": L1(l1), "giou": IoULoss("giou", eps=1e-6)}
    return DenseBranch(assigner, losses, Fixed({"cls": 2.0, "l1": 5.0, "giou": 2.0}), weight=weight)


def onenet(
    matching: Matching = "hungarian",
    poto: POTO = POTO(),
    l1: BoxFormat = "cxcywh",
    init: str | None = None,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = Optim(),
) -> Experiment:
    """OneNet: what makes for end-to-end object detection? arXiv:2012.05780, in the form of DATE's baseline.

    One-to-one assignment alone: no NMS, slow to converge.

        bifocals train onenet --data.root /data/coco                   # R50 1x: the paper has 35.4 AP; not run by us
        bifocals train onenet --matching poto --data.root /data/coco   # 36.1 AP (DATE's Table 5); not run by us
        bifocals train onenet --init runs/fcos --data.root /data/coco  # from a trained FCOS (DATE's Table 11)

    Args:
        matching: hungarian: OneNet's cost, optimal. argmin: each object's cheapest prior. poto: quality of DeFCN, as
            DATE uses it; poto_minus_one: with DeFCN's own treatment of the points outside.
        poto: Details of the two matchings by POTO.
        l1: Boxes of the L1 loss and cost: cxcywh (DATE's port of OneNet) or xyxy (the original).
        init: A trained detector (work directory, checkpoint or weight file) to copy body, pyramid and towers from.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers.
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    output = "one2one"
    return balanced(
        Experiment(
            network=dense_network(backbone, {output: one2one_predictor}, towers=towers),
            start=start_from(backbone, init),
            start_once=init is not None,
            objective=lambda: Objective({output: one2one_branch(matching, poto=poto, l1=l1)}),
            postprocess={output: ONE2ONE_POSTPROCESS},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
