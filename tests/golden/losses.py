"""Replays the losses of class logits, and of pairs of boxes by formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bifocals.losses import DR, GHM, Focal, QualityFocal, Varifocal, iou_loss
from bifocals.structures import DenseOutput, Loss, Matched, Matches, Priors, Target

from .case import Case


def matched_rows(
    logits: Tensor, labels: Tensor, counted: Tensor | None = None, quality: Tensor | None = None
) -> Matched:
    """An image with a prior for each row of logits; those whose label is a class answer for an object of their own.

    counted: rows that are not ignored. quality: the IoU of each row's predicted box with its object.
    """
    num_rows, num_classes = logits.shape
    prior = torch.nonzero((labels >= 0) & (labels < num_classes))[:, 0]
    zero, one = torch.zeros(num_rows), torch.ones(num_rows)
    # A unit square, covered from the left as far as the IoU says.
    boxes = torch.stack([zero, zero, one if quality is None else quality, one], dim=1)
    objects = torch.stack([zero, zero, one, one], dim=1)[prior]
    none = torch.zeros_like(prior)
    output = DenseOutput(logits[None], boxes[None], boxes[None], Priors(boxes[:, :2], one, (num_rows,)))
    target = Target(objects, labels[prior], none.bool(), (1, 1), (1, 1))
    ignore = None if counted is None else ~counted[None]
    return Matched(output, [target], Matches(none, prior, torch.arange(len(prior)), ignore))


def undivided(loss: Loss, matched: Matched) -> Tensor:
    """The sum that a loss divides by the number of positives: the cases have divisors of their own."""
    return loss(matched) * matched.num_positive


def by_row(loss: Loss, logits: Tensor, labels: Tensor, quality: Tensor | None = None) -> Tensor:
    """The loss of each row alone: our losses have no weights of rows."""
    parts = [slice(row, row + 1) for row in range(len(labels))]
    return torch.stack([undivided(loss, matched_rows(logits[r], labels[r], quality=None if quality is None
                                                     else quality[r])) for r in parts])


def focal(case: Case) -> None:
    logits, labels = case.input("logits").requires_grad_(), case.input("labels")
    loss = Focal(case.hyper["alpha"], case.hyper["gamma"])
    total = (by_row(loss, logits, labels) * case.input("weight")).sum() / case.input("avg_factor")
    total.backward()
    case.check("loss", total)
    case.check("grad_logits", logits.grad)
    # A class alone is a loss over one column; its label is 0 where it was this class, else the background.
    count, num_classes = case.arrays["loss_elementwise"].shape
    columns = [by_row(loss, logits.detach()[:count, k : k + 1], (labels[:count] != k).long())
               for k in range(num_classes)]
    case.check("loss_elementwise", torch.stack(columns, dim=1))


def quality_focal(case: Case) -> None:
    logits, labels = case.input("logits").requires_grad_(), case.input("labels")
    rows = by_row(QualityFocal(case.hyper["beta"]), logits, labels, case.input("score"))
    total = (rows * case.input("weight")).sum() / case.input("avg_factor")
    total.backward()
    case.check("loss_rows", rows)
    case.check("loss", total)
    case.check("grad_logits", logits.grad)


def varifocal(case: Case) -> None:
    logits, score = case.input("logits").requires_grad_(), case.input("score")
    # To the original a target of 0 is background, whatever the label.
    labels = torch.where(score > 0, case.input("labels"), logits.shape[1])
    loss = Varifocal(case.hyper["alpha"], case.hyper["gamma"], case.hyper["iou_weighted"])
    total = undivided(loss, matched_rows(logits, labels, quality=score)) / case.input("avg_factor")
    total.backward()
    case.check("loss", total)
    case.check("grad_logits", logits.grad)


def ghm(case: Case) -> None:
    """Calls of one instance in a row; ours starts its counts at their first visit unless told to do as the release."""
    hyper = case.hyper
    loss, labels = GHM(hyper["bins"], hyper["momentum"], first_visit="zero"), case.input("labels")
    calls = sorted(name.removesuffix("_weight") for name in case.arrays if name.endswith("_weight"))
    for call in calls:
        logits = case.input(f"{call}_logits").requires_grad_()
        total = loss(matched_rows(logits, labels, case.input(f"{call}_weight") > 0)) * hyper["loss_weight"]
        total.backward()
        case.check(f"{call}_loss", total)
        case.check(f"{call}_grad_logits", logits.grad)
        if case.has(f"{call}_acc_sum"):
            case.check(f"{call}_acc_sum", loss.density.counts)


def dr(case: Case) -> None:
    hyper = case.hyper
    loss = DR(hyper["pos_lambda"], hyper["neg_lambda"], hyper["L"], hyper["tau"], hyper["margin"])
    for ending in ("", "_nopos"):
        logits, targets = case.input("logits").requires_grad_(), case.input(f"targets{ending}")
        labels = torch.where(targets > 0, targets - 1, logits.shape[1])
        total = loss(matched_rows(logits, labels, targets >= 0))
        total.backward()
        case.check(f"loss{ending}", total)
        case.check(f"grad_logits{ending}", logits.grad)


def iou(kind: str) -> Callable[[Case], None]:
    """A replay of one kind of IoU loss."""

    def replay(case: Case) -> None:
        hyper = case.hyper
        assert hyper.get("detach_weight", True)
        options = {name: float(hyper[name]) for name in ("eps", "alpha", "gamma") if name in hyper}
        boxes = case.input("pred").requires_grad_()
        check_pairs(case, boxes, iou_loss(boxes, case.input("target"), hyper.get("mode", kind), **options))

    return replay


def check_pairs(case: Case, boxes: Tensor, rows: Tensor) -> None:
    """The rows, their weighted sum and its gradient."""
    total = (rows * case.input("weight")).sum() / case.input("avg_factor")
    total.backward()
    case.check("loss_rows", rows)
    case.check("loss", total)
    case.check("grad_pred", boxes.grad)
