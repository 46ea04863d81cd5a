"""MAL: multiple anchor learning for visual object detection, arXiv:1912.02252."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from bifocals.assign import Bags
from bifocals.balance import Balance, Fixed
from bifocals.data import Data, Input
from bifocals.losses import Aggregate, BagLoss, IoUNegatives, Select, SoftNegatives
from bifocals.networks import Backbone, Depression, Depressor, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import DeltaCoder, Loss
from bifocals.train import Experiment, Optim

from .assembly import dense_network, start_from
from .balanced import balanced
from .retinanet import RETINA_POSTPROCESS, RetinaHead, retina_branch, retina_predictor

Rule = Literal["paper", "release"]

# Of the releases: 135,000 steps of 16 images of COCO's 117,266 with objects. They do not clip; mmdetection's FreeAnchor
# does, for images without objects, whose background is divided by 1.
MAL_EPOCHS = 18.42
MAL_OPTIM = Optim("sgd", lr=0.01, backbone_lr_factor=1.0, clip_norm=35.0, milestones=(90 / 135, 120 / 135),
                  warmup_steps=500, warmup_factor=1 / 3)


@dataclass(frozen=True)
class MultipleAnchor:
    """Bags, scores and negatives; A1 to A9 of docs/methods/mal.md say where the paper is silent."""

    k: int = 50
    """Anchors of a bag; the release has 40 for ResNet-50 and 50 for the others."""
    beta: float = 0.75
    """Weight of localization in the score of an anchor (Eq. 3)."""
    smooth_l1_beta: float = 0.11
    """Where smooth L1 ends to be quadratic."""
    alpha: float = 0.5
    """Weight of the bags; the background has 1 - alpha."""
    gamma: float = 2.0
    """Exponent that makes easy background count less."""
    t1: float = 0.6
    """IoU of a decoded box from which it is less and less background."""
    select: Select | None = None
    """Anchors of a bag that learn: topn (n falls from k to 1), mean_max, all, max; none: topn by the paper's rule,
    mean_max by the release's."""
    aggregate: Aggregate = "mean_nll"
    """What becomes of the chosen ones: the mean of -log s (Eq. 4 and 5), or -log of the mean of s."""
    negatives: Literal["soft", "iou"] = "soft"
    """Background: soft by the IoU of the decoded box, or the anchors under IoU .4 in no bag, by the focal loss."""
    padding: int | None = None
    """Anchors of an image end where it does, rounded up to so many pixels; none takes those of the whole canvas."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"MultipleAnchor expected alpha in [0, 1], got {self.alpha}.")
        if self.negatives not in ("soft", "iou"):
            raise ValueError(f"MultipleAnchor expected negatives 'soft' or 'iou', got {self.negatives!r}.")


def select_of(rule: Rule, bags: MultipleAnchor) -> Select:
    """What `bags` selects by, the rule's own where it does not say. The rules differ in nothing else."""
    if rule not in get_args(Rule):
        raise ValueError(f"MultipleAnchor knows the rules {get_args(Rule)}, got {rule!r}.")
    if bags.select is not None:
        return bags.select
    return "topn" if rule == "paper" else "mean_max"


def bag_branch(rule: Rule, bags: MultipleAnchor, coder: DeltaCoder) -> DenseBranch:
    """`positive`, weight alpha, and `negative`, weight 1 - alpha; the focal loss's .75 for literal negatives."""
    select = select_of(rule, bags)
    positive = BagLoss(bags.k, select, bags.aggregate, bags.beta, bags.smooth_l1_beta, coder)
    negative: Loss
    if bags.negatives == "soft":
        negative, weight = SoftNegatives(bags.gamma, bags.t1), 1 - bags.alpha
    else:
        negative, weight = IoUNegatives(bags.k, select, bags.gamma), 0.75
    losses: dict[str, Loss] = {"positive": positive, "negative": negative}
    return DenseBranch(Bags(bags.k, bags.padding), losses, Fixed({"positive": bags.alpha, "negative": weight}))


def mal(
    rule: Rule = "paper",
    loss: Literal["bags", "retinanet"] = "bags",
    bags: MultipleAnchor = MultipleAnchor(),
    depression: Depression = Depression(),
    head: RetinaHead = RetinaHead.legacy(),
    extra: Literal["p5", "c5"] = "p5",
    nms: float = 0.5,
    max_detections: int = 100,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(),
    towers: Towers = Towers(norm="none"),
    input: Input = Input(),
    epochs: float = MAL_EPOCHS,
    data: Data = Data(),
    optim: Optim = MAL_OPTIM,
) -> Experiment:
    """MAL: multiple anchor learning for visual object detection, arXiv:1912.02252.

    RetinaNet whose objects choose among bags of anchors, while the loudest features are made quieter; what it ships is
    a RetinaNet, and its weights load into one.

        bifocals train mal --data.root /data/coco                 # R50, batch 16: the paper has 39.2 AP; not run by us
        bifocals train mal --rule release --data.root /data/coco  # selection of the released code, same depression
        bifocals train mal --loss retinanet --depression.schedule none    # its baseline: 35.5 AP; not run by us

    Args:
        rule: Selection: paper, the n best of a bag with n falling to 1 (Eq. 5), of which no public code has ever shown
            an AP; or release, FreeAnchor's Mean-max, which the published code has.
        loss: bags, or retinanet: matching and losses of the head, to have depression alone or the baseline.
        bags: Details of bags, scores and background.
        depression: How much of the features is made quieter, and when; evaluation never depresses.
        head: Anchors, coding and prior; matching and losses too where the loss is retinanet. The default is that of
            the release, with rounded anchors and no learned scales.
        extra: Where P6 comes from: p5 (MAL) or c5 (RetinaNet's paper).
        nms: IoU above which the better of two detections of a class removes the other.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights.
        towers: Width and depth of pyramid and towers; MAL's have no norm.
        input: Size of the images and augmentation.
        epochs: Passes over the training images; the release has 135,000 steps of 16 images of COCO.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    if loss not in ("bags", "retinanet"):
        raise ValueError(f"mal expected loss 'bags' or 'retinanet', got {loss!r}.")
    select_of(rule, bags)
    output = "one2many"

    def objective() -> Objective:
        return Objective({output: bag_branch(rule, bags, head.coder) if loss == "bags" else retina_branch(head)})

    return balanced(
        Experiment(
            network=dense_network(
                backbone, {output: retina_predictor(head)}, towers=towers, extra=extra, scales=head.scales,
                hook=None if depression.schedule == "none" else lambda: Depressor(depression),
            ),
            start=start_from(backbone),
            objective=objective,
            postprocess={output: replace(RETINA_POSTPROCESS, nms=nms, max_detections=max_detections)},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )
