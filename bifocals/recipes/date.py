"""DATE: dual assignment for end-to-end fully convolutional object detection, arXiv:2211.13859."""

from __future__ import annotations

from typing import Literal

from bifocals.data import Data, Input
from bifocals.networks import Backbone, Towers
from bifocals.objective import Objective
from bifocals.train import Experiment, Optim

from .assembly import dense_network, start_from
from .fcos import FCOS_POSTPROCESS, fcos_branch, fcos_predictor
from .onenet import ONE2ONE_POSTPROCESS, Matching, one2one_branch, one2one_predictor


def date(
    one2many: Literal["fcos"] = "fcos",
    matching: Matching = "poto",
    lambda_o2o: float = 1.0,
    lambda_o2m: float = 1.0,
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

    Args:
        one2many: The one-to-many branch; fcos makes DATE-F.
        matching: Of the one-to-one branch: poto (the paper), poto_minus_one, hungarian or argmin.
        lambda_o2o: Weight of the one-to-one branch (Eq. 1).
        lambda_o2m: Weight of the one-to-many branch (Eq. 1).
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers; shared by the branches (the paper) or not (its Table 9).
        input: Size of the images and augmentation.
        epochs: Passes over the training images.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    if one2many != "fcos":
        raise ValueError(f"date expected one2many 'fcos', got {one2many!r}.")
    predictors = {"one2one": one2one_predictor, "one2many": fcos_predictor(tricks=False)}
    return Experiment(
        network=dense_network(backbone, predictors, towers=towers),
        start=start_from(backbone),
        objective=lambda: Objective({
            "one2one": one2one_branch(matching, weight=lambda_o2o),
            "one2many": fcos_branch(weight=lambda_o2m),
        }),
        postprocess={"one2one": ONE2ONE_POSTPROCESS, "one2many": FCOS_POSTPROCESS},
        output="one2one",
        input=input,
        data=data,
        optim=optim,
        epochs=epochs,
    )
