"""HCRAL: hybrid classification-regression adaptive loss for dense object detection, arXiv:2408.17182."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

from bifocals.assign import ATSS, EATSS
from bifocals.balance import Balance
from bifocals.data import Data, Input
from bifocals.losses import BoxLossName, ClsLossName, DeltaLossName
from bifocals.networks import Backbone, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Assigner
from bifocals.train import Experiment, Optim

from .assembly import MakePredictor, dense_network, start_from
from .atss import ATSS_POSTPROCESS, ATSSHead, atss_branch, atss_predictor
from .balanced import balanced
from .fcos_atss import FCOSATSSHead, fcos_atss_branch, fcos_atss_predictor, fcos_atss_towers
from .retinanet import RETINA_POSTPROCESS, RetinaHead, retina_branch, retina_predictor

Host = Literal["retinanet", "atss", "fcos_atss"]

# mmdetection's, which the paper's code is built on; GHM's configurations also clip gradients at 35.
HCRAL_OPTIM = Optim("sgd", lr=0.01, backbone_lr_factor=1.0, clip_norm=None, warmup_steps=500, warmup_factor=0.1)


def hcral(
    host: Host = "fcos_atss",
    aux: bool = False,
    dcn: bool = False,
    eatss: bool = False,
    extras: int = 3,
    cls_loss: ClsLossName = "hcra",
    box_loss: BoxLossName = "hcra",
    multiscale: bool = False,
    max_detections: int = 100,
    balance: Balance = Balance(),
    backbone: Backbone = Backbone(style="pytorch"),
    towers: Towers = Towers(),
    input: Input = Input(),
    epochs: float = 12,
    data: Data = Data(),
    optim: Optim = HCRAL_OPTIM,
) -> Experiment:
    """HCRAL: hybrid classification-regression adaptive loss for dense object detection, arXiv:2408.17182.

    Class logits count by how far they are below the IoU of their box, boxes by how far their score is above it. No code
    of the paper is public; its equations contradict each other in places, docs/methods/hcral.md says what is read how.

        bifocals train hcral --eatss --aux --data.root /data/coco    # R50 1x: the paper has 42.1 AP; not run by us
        bifocals train hcral --eatss --epochs 24 --multiscale --data.root /data/coco    # 44.4 on test-dev; not run
        bifocals train hcral --host retinanet --towers.norm none --data.root /data/coco
        bifocals train hcral --host atss --cls-loss focal --box-loss alpha_iou --data.root /data/coco    # Table 9

    Args:
        host: What the losses are put into: retinanet; atss; or fcos_atss, FCOS matched by ATSS with a branch that
            learns IoU.
        aux: Star deformable convolution and refined boxes (VarifocalNet's), for host fcos_atss.
        dcn: Deformable convolutions (DCNv2) in C3 to C5 and at the end of the towers.
        eatss: Match by EATSS in place of ATSS, for hosts atss and fcos_atss.
        extras: Anchors that EATSS adds for each object.
        cls_loss: Of the class logits; Table 8 has focal, qfl, dr, vfl and hcra.
        box_loss: Of the boxes; Table 9 has l1, giou, eiou, focal_eiou, alpha_iou and hcra.
        multiscale: In training draw the short side from .6 to 1.2 times its pixels, 480 to 960 of 800.
        max_detections: Detections of an image.
        balance: Who weighs class against box losses: --balance alwa1, alwa2, dwa, dtp, guided or fixed.
        backbone: The body and its weights; timm:res2net101d with style pytorch is the paper's largest.
        towers: Width and depth of pyramid and towers; the paper's RetinaNet has no norm.
        input: Size of the images and augmentation.
        epochs: Passes over the training images; 24 in the paper's comparison with others.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    if host not in get_args(Host):
        raise ValueError(f"hcral knows the hosts {get_args(Host)}, got {host!r}.")
    if aux and host != "fcos_atss":
        raise ValueError(f"hcral expected aux with host 'fcos_atss', got {host!r}: refinement starts from distances "
                         "that a point predicts.")
    if eatss and host == "retinanet":
        raise ValueError("hcral expected eatss with host 'atss' or 'fcos_atss', got 'retinanet', whose anchors are "
                         "matched by IoU thresholds.")
    if dcn:
        backbone, towers = replace(backbone, deformable=True), replace(towers, deformable=True)
    if multiscale:
        if input.multiscale:
            raise ValueError(f"hcral expected either multiscale or sides of its own in input.multiscale, got both, "
                             f"{len(input.multiscale)} sides.")
        sides = range(round(0.6 * input.short), min(round(1.2 * input.short), input.long) + 1)
        input = replace(input, multiscale=tuple(sides))

    matching = EATSS(extras) if eatss else ATSS()
    predictor, branch, under = _host(host, aux, matching, cls_loss, box_loss, towers)
    postprocess = RETINA_POSTPROCESS if host == "retinanet" else ATSS_POSTPROCESS
    # The DR loss's own: scores are spread over the unit interval.
    threshold = 0.2 if cls_loss == "dr" else postprocess.score_threshold
    output = "one2many"
    return balanced(
        Experiment(
            network=dense_network(backbone, {output: predictor}, towers=under, scales=host != "retinanet",
                                  extra="c5" if host == "retinanet" else "p5", relu_before_p7=host == "fcos_atss"),
            start=start_from(backbone),
            objective=lambda: Objective({output: branch()}),
            postprocess={output: replace(postprocess, score_threshold=threshold, max_detections=max_detections)},
            output=output,
            input=input,
            data=data,
            optim=optim,
            epochs=epochs,
        ),
        balance,
    )


def _host(
    host: Host, aux: bool, matching: Assigner, cls_loss: ClsLossName, box_loss: BoxLossName, towers: Towers
) -> tuple[MakePredictor, Callable[[], DenseBranch], Towers]:
    """Predictor, branch and towers of a host. The DR loss starts at a probability of .5, with one IoU threshold."""
    prior = 0.5 if cls_loss == "dr" else 0.01
    if host == "fcos_atss":
        star = FCOSATSSHead(aux, matching=matching, prior_probability=prior, cls_loss=cls_loss, box_loss=box_loss)
        return fcos_atss_predictor(star, towers.norm), lambda: fcos_atss_branch(star), fcos_atss_towers(star, towers)
    on_deltas = box_loss in get_args(DeltaLossName)
    if host == "atss":
        square = ATSSHead(prior_probability=prior, cls_loss=cls_loss, box_loss=box_loss)
        return atss_predictor(square), lambda: atss_branch(square, matching=matching), towers
    anchored = RetinaHead(prior_probability=prior, cls_loss=cls_loss, box_loss=box_loss, scales=False,
                          # "All loss weights of regression tasks are set as 2.5"; its L1 has 1, by the result.
                          box_weight=1.0 if on_deltas else 2.5)
    if cls_loss == "dr":
        anchored = replace(anchored, matching=replace(anchored.matching, negative=0.5))
    return retina_predictor(anchored), lambda: retina_branch(anchored), towers
