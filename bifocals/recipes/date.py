"""DATE: dual assignment for end-to-end fully convolutional object detection, arXiv:2211.13859."""

from __future__ import annotations

from dataclasses import replace

from bifocals.assign import POTO
from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.networks import Backbone, Towers
from bifocals.objective import Objective
from bifocals.train import Experiment, Optim

from .assembly import dense_network, start_from
from .balanced import balanced
from .defcn import filtered_one2one_predictor
from .one_to_many import find_one2many
from .onenet import ONE2ONE_POSTPROCESS, BoxFormat, Matching, one2one_branch, one2one_predictor
from .retinanet import RetinaHead


def date(
    one2many: str = "fcos",
    retina: RetinaHead = RetinaHead(),
    filter3d: bool = False,
    matching: Matching = "poto",
    poto: POTO = POTO(),
    l1: BoxFormat = "cxcywh",
    lambda_o2o: float = 1.0,
    lambda_o2m: float | None = None,
    init: str | None = None,
    max_detections: int = 100,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = Optim(),
) -> Experiment:
    """DATE: dual assignment for end-to-end fully convolutional object detection, arXiv:2211.13859.

    A one-to-one and a one-to-many branch learn on shared towers; inference keeps the first alone, and needs no NMS.

        bifocals train date --data.root /data/coco    # DATE-F R50 1x, batch 16: the paper has 37.3 AP; not run by us
        bifocals train date --one2many retina --data.root /data/coco    # DATE-R: 37.0 AP; not run by us
        bifocals train date --filter3d --data.root /data/coco           # with 3DMF: 38.9 AP; not run by us

    Args:
        one2many: The one-to-many branch: fcos (DATE-F), retina (DATE-R), fcos_tricks or atss (the later FCOS and ATSS,
            not in the paper), or FILE.py:FUNCTION of a function of your own that returns a
            `bifocals.recipes.one_to_many.OneToMany`.
        retina: Details of the one-to-many half retina; DATE divides its losses by the positives of each process.
        filter3d: Multiply the one-to-one class probabilities with those of a 3D max filter (Table 2).
        matching: Of the one-to-one branch: poto (the paper), poto_minus_one, hungarian or argmin.
        poto: Details of the two matchings by POTO; a radius of 0 takes any point inside an object (CrowdHuman).
        l1: Boxes of the one-to-one L1 loss and cost: cxcywh (DATE) or xyxy (the original OneNet).
        lambda_o2o: Weight of the one-to-one branch (Eq. 1).
        lambda_o2m: Weight of the one-to-many branch (Eq. 1); by default 2 for retina and 1 for the others.
        init: A trained detector (work directory, checkpoint or weight file) to copy body, pyramid and towers from
            (Fig. 3, Table 11).
        max_detections: Detections of an image; 500 for crowds.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers; shared by the branches (the paper) or not (its Table 9).
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    half = find_one2many(one2many, retina)
    weight = half.weight if lambda_o2m is None else lambda_o2m
    one2one = filtered_one2one_predictor if filter3d else one2one_predictor
    candidates = max(ONE2ONE_POSTPROCESS.per_level, max_detections)
    return balanced(
        Experiment(
            network=dense_network(backbone, {"one2one": one2one, "one2many": half.predictor}, towers=towers),
            start=start_from(backbone, init),
            start_once=init is not None,
            objective=lambda: Objective({
                "one2one": one2one_branch(matching, lambda_o2o, poto=poto, l1=l1),
                "one2many": half.branch(weight),
            }),
            postprocess={
                "one2one": replace(ONE2ONE_POSTPROCESS, max_detections=max_detections, per_level=candidates),
                "one2many": replace(half.postprocess, max_detections=max_detections),
            },
            output="one2one",
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
