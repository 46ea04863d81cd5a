"""DeFCN: end-to-end object detection with fully convolutional network, arXiv:2012.03544."""

from __future__ import annotations

from bifocals.assign import POTO, POTOAux
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import Focal, IoULoss
from bifocals.networks import Backbone, FilteredPredictor, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.predict import Postprocess
from bifocals.train import Experiment, Optim

from .assembly import dense_network, start_from
from .balanced import balanced
from .onenet import one2one_predictor

# Of the release, which says that threshold and number of candidates make no difference without NMS.
DEFCN_POSTPROCESS = Postprocess(score_threshold=0.05, per_level=1000, max_detections=100, nms=None)


def filtered_one2one_predictor(channels: int, num_classes: int) -> FilteredPredictor:
    """The one-to-one predictor with 3D max filtering; of DATE's too (its Table 2)."""
    return FilteredPredictor(one2one_predictor(channels, num_classes), channels)


def defcn_branch(poto: POTO) -> DenseBranch:
    """Focal loss of weight 1 and GIoU of weight 2."""
    return DenseBranch(poto, {"cls": Focal(), "giou": IoULoss("giou")}, Fixed({"giou": 2.0}))


def defcn_aux_branch(poto: POTO, source: str) -> DenseBranch:
    """The auxiliary one-to-many focal loss of weight 1, on the class logits before the filter."""
    return DenseBranch(POTOAux(poto.alpha), {"cls": Focal()}, source=source, filtered=False)


def defcn(
    filter3d: bool = True,
    aux: bool = True,
    poto: POTO = POTO(outside="minus_one"),
    init: str | None = None,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(),
    input: Input = Input(multiscale=(640, 672, 704, 736, 768, 800)),
    epochs: float = 36.84,
    data: Data = Data(),
    optim: Optim = Optim(
        "sgd", lr=0.01, backbone_lr_factor=1.0, clip_norm=None, milestones=(210 / 270, 250 / 270)
    ),
) -> Experiment:
    """DeFCN: end-to-end object detection with fully convolutional network, arXiv:2012.03544.

    POTO alone assigns; 3D max filtering makes scores one-to-one, and no NMS follows.

        bifocals train defcn --data.root /data/coco                           # R50 3x, batch 16: 41.4 AP; not run by us
        bifocals train defcn --no-filter3d --no-aux --data.root /data/coco    # POTO alone: 39.2 AP; not run by us
        bifocals train defcn --poto.radius 0 --data.root /data/crowdhuman     # candidates anywhere inside the object

    The release takes the focal loss of the product of both probabilities. Here the product is turned into a logit, cut
    where it or its complement is below 1e-5, as DATE does it: the same loss, but no gradient below.

    Args:
        filter3d: Multiply the class probabilities with those of a 3D max filter.
        aux: Add the auxiliary one-to-many loss on the class logits before the filter.
        poto: Details of the matching.
        init: A trained detector (work directory, checkpoint or weight file) to copy body, pyramid and towers from.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers; the convolutions of the towers have a bias.
        input: Size of the images and augmentation.
        epochs: Passes over the training images; the release has 270,000 steps of 16 images of COCO.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    output = "one2one"
    predictor = filtered_one2one_predictor if filter3d else one2one_predictor

    def objective() -> Objective:
        branches = {output: defcn_branch(poto)}
        if aux:
            branches["aux"] = defcn_aux_branch(poto, source=output)
        return Objective(branches)

    return balanced(
        Experiment(
            network=dense_network(backbone, {output: predictor}, towers=towers, tower_bias=True),
            start=start_from(backbone, init),
            start_once=init is not None,
            objective=objective,
            postprocess={output: DEFCN_POSTPROCESS},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
