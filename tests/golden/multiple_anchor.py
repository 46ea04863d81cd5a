"""Replays FreeAnchor and MAL: bags, whole branches, schedules and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bifocals.assign import Bags
from bifocals.assign.bags import best
from bifocals.balance import Fixed
from bifocals.losses import BagLoss, SoftNegatives, mean_max, mean_of_best
from bifocals.losses.bag_negatives import Entries, background
from bifocals.networks import Depression, Depressor
from bifocals.networks.depression import loud, loud_channels
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import (
    Anchors,
    DeltaCoder,
    DenseOutput,
    Match,
    Matched,
    Matches,
    Prediction,
    Priors,
    Target,
    pairwise_iou,
)

from .assigners import target_of
from .branches import anchored_output_of, targets_of
from .case import Case

CORNER = torch.tensor([0.0, 0.0, 1.0, 1.0])
"""Where a release counts a box's last pixel (width = x2 - x1 + 1), our x2 and y2 are one greater."""


def freeanchor(case: Case) -> None:
    """mmdetection's FreeAnchor."""
    hyper = case.hyper
    made = hyper["anchors"]
    anchors = Anchors(float(made["octave_base_scale"]), made["scales_per_octave"], tuple(map(float, made["ratios"])))
    coder = DeltaCoder(tuple(map(float, hyper["delta_stds"])))
    branch = branch_of(hyper, hyper["bbox_thr"], coder)
    maps = maps_of(case)
    losses = replay(case, branch, anchored_output_of(case, maps, anchors, coder), targets_of(case), maps)
    case.check("positive_bag_loss", losses["positive"])
    case.check("negative_bag_loss", losses["negative"])
    case.check("total", losses["positive"] + losses["negative"])


def released(case: Case) -> None:
    """The release of MAL, whose loss is that of FreeAnchor's release."""
    hyper, maps = case.hyper, maps_of(case)
    coder = DeltaCoder(tuple(1 / w for w in hyper["coder_weights"]))
    made = anchored_output_of(case, maps, Anchors(offset=0.5, rounded=True), coder)
    # The anchors are ours by another replay; here the recorded ones enter.
    anchors = torch.cat(case.levels("anchors"))
    boxes = anchors + CORNER
    torch.testing.assert_close(made.priors.boxes, boxes, rtol=1e-5, atol=1e-4)
    output = replace(made, boxes=coder.decode(boxes, made.deltas), priors=replace(made.priors, boxes=boxes))
    size = tuple(case.input("image_size").tolist())
    targets = [target_of(case, i, size) for i in range(case.num_images())]
    targets = [replace(t, boxes=t.boxes + CORNER) for t in targets]
    k, branch = hyper["pre_anchor_topk"], branch_of(hyper, hyper["bbox_threshold"], coder)
    for target in targets:
        # The same bags, but for anchors whose IoU is the same: those nested in a large object are many.
        iou = pairwise_iou(target.boxes, boxes)
        ours = iou.gather(1, branch.assigner(output.priors, target).prior.view(-1, k))
        theirs = iou.gather(1, LegacyBags(k, anchors)(output.priors, target).prior.view(-1, k))
        torch.testing.assert_close(ours.sort(dim=1).values, theirs.sort(dim=1).values)
    branch.assigner = LegacyBags(k, anchors)
    losses = replay(case, branch, output, targets, maps)
    for prefix in ("", "freeanchor_"):
        case.check(f"{prefix}loss_positive", losses["positive"])
        case.check(f"{prefix}loss_negative", losses["negative"])


@dataclass(frozen=True)
class LegacyBags:
    """Bags by the IoU of the release, whose way to round decides which of equal anchors comes last into a bag."""

    k: int
    anchors: Tensor
    """With their last pixel, as recorded."""

    def __call__(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        a, b = target.boxes - CORNER, self.anchors
        low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
        shared = (high - low + 1).clamp(min=0).prod(dim=-1)
        size_a, size_b = ((x[:, 2:] - x[:, :2] + 1).prod(dim=-1) for x in (a, b))
        prior = best(shared / (size_a[:, None] + size_b - shared), self.k)
        gt = torch.arange(len(prior))[:, None].expand_as(prior)
        return Match(prior.flatten(), gt.flatten())


def branch_of(hyper: dict, threshold: float, coder: DeltaCoder) -> DenseBranch:
    k, alpha = hyper["pre_anchor_topk"], hyper["alpha"]
    positive = BagLoss(k, "mean_max", box_weight=hyper["box_weight"], smooth_l1_beta=hyper["smooth_l1_beta"],
                       coder=coder)
    losses = {"positive": positive, "negative": SoftNegatives(hyper["gamma"], threshold)}
    return DenseBranch(Bags(k), losses, Fixed({"positive": alpha, "negative": 1 - alpha}))


def maps_of(case: Case) -> dict[str, list[Tensor]]:
    return {k: [m.requires_grad_() for m in case.levels(k)] for k in ("cls_logits", "deltas")}


def replay(
    case: Case, branch: DenseBranch, output: DenseOutput, targets: Sequence[Target], maps: Mapping[str, list[Tensor]]
) -> dict[str, Tensor]:
    losses = Objective({"branch": branch})({"branch": output}, targets)
    losses.total.backward()
    for key, levels in maps.items():
        for i, level in enumerate(levels):
            case.check(f"grad_{key}_{i}", level.grad, "gradients")
    return {name.removeprefix("branch/"): loss.detach() for name, loss in losses.weighted.items()}


def bag(case: Case) -> None:
    """Positive bags and soft background as functions of probabilities; rows with a certain anchor are apart."""
    alpha, gamma = case.hyper["alpha"], case.hyper["gamma"]
    p, q = (case.input(f"bag_{n}_prob").requires_grad_() for n in ("cls", "box"))
    s = p * q
    s.retain_grad()
    loss = mean_max(-s.log())
    loss.sum().backward()
    certain = (s == 1).any(dim=1)
    for name, ours in (("mal_positive", loss), ("mal_grad_s", s.grad), ("mmdet_positive", alpha * loss),
                       ("mmdet_grad_cls", alpha * p.grad), ("mmdet_grad_box", alpha * q.grad)):
        _check_rows(case, name, ours, certain)

    s = (p * q).detach().requires_grad_()
    loss = mean_of_best(-s.log(), s.shape[1], "nll_mean")
    loss.sum().backward()
    _check_rows(case, "mal_positive_mean", loss, certain)
    _check_rows(case, "mal_grad_s_mean", s.grad, certain)

    p, b = case.input("neg_cls_prob").requires_grad_(), case.input("neg_box_prob")
    rows = torch.stack([_background_of(p[i], b[i], gamma, k) for i in range(len(p)) for k in range(p.shape[1])])
    rows = rows.view_as(p)
    rows.sum().backward()
    case.check("mmdet_negative", (1 - alpha) * rows)
    case.check("mmdet_grad_neg_cls", (1 - alpha) * p.grad)
    case.check("mal_negative_sum", rows.sum())
    # d/dz of a product p (1 - b) from d/dp: where b is 1, z is 0 and learns nothing.
    case.check("mal_grad_z", torch.where(b < 1, p.grad / (1 - b).clamp(min=1e-12), 0))


def _background_of(p: Tensor, b: Tensor, gamma: float, label: int) -> Tensor:
    """The background of one prior and class: the others are left out by a probability of 0."""
    zero = torch.zeros(1, dtype=torch.int64)
    logits = torch.logit(p[label], eps=1e-12)[None, None, None]
    box = torch.zeros(1, 1, 4)
    output = DenseOutput(logits, box, box, Priors(box[0, :, :2], box[0, :, 0], (1,)))
    matched = Matched(output, [], Matches(zero[:0], zero[:0], zero[:0]))
    return background(matched, Entries(zero, zero, zero, b[label][None]), gamma)


def _check_rows(case: Case, name: str, ours: Tensor, apart: Tensor) -> None:
    expected = case.output(name)
    for rows, kind in ((~apart, ""), (apart, "rows")):
        rtol, atol = case.tolerance(kind)
        torch.testing.assert_close(ours.detach()[rows], expected[rows], rtol=rtol, atol=atol,
                                   msg=lambda m: f"{case.name}: {name}: {m}")


SCHEDULES = {0: "constant", 1: "step", 2: "linear", 4: "sigmoid", 5: "symmetric", 6: "triangular",
             8: "reflected_sigmoid"}


def schedules(case: Case) -> None:
    for suffix, middle in (("", ""), ("_small", "small_")):
        total = int(case.input(f"T{suffix}"))
        for number, name in SCHEDULES.items():
            depression = Depression(name)
            ours = [depression.ratio(t, total) for t in case.input(f"t{suffix}").tolist()]
            case.check(f"ratio_{middle}type{number}", torch.tensor(ours))


def masks(case: Case) -> None:
    levels, total = case.levels("x"), int(case.input("T"))
    part = Depressor(Depression("symmetric", factor=case.hyper["factor"])).train()
    for k, t in enumerate(case.input("t").tolist()):
        part.set_step(t - 1, total)
        torch.testing.assert_close(part.ratio, float(case.input("ratio")[k]), rtol=1e-6, atol=0)
        for i, level in enumerate(levels):
            case.check(f"mask_t{k}_{i}", 1 - loud(level, part.ratio).float())
        for i, level in enumerate(part(levels)[1:3]):
            case.check(f"v_t{k}_{i}", level)
        for i, level in enumerate(levels[2:4]):
            if case.has(f"mask2_t{k}_{i}"):
                both = loud(level, part.ratio) | loud_channels(level, part.ratio)
                case.check(f"mask2_t{k}_{i}", 1 - both.float())
