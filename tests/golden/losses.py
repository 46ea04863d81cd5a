"""Replays the losses of single pairs and of single logits."""

from __future__ import annotations

import torch

from bifocals.losses import Focal, iou_loss
from bifocals.structures import DenseOutput, Matched, Matches, Priors, Target

from .case import Case


def focal(case: Case) -> None:
    """Our loss has ignored priors but no weights of rows: the weighted sum is put together from single rows."""
    logits, labels = case.input("logits").requires_grad_(), case.input("labels")
    weight, divisor = case.input("weight"), case.input("avg_factor")
    loss = Focal(case.hyper["alpha"], case.hyper["gamma"])
    rows = torch.stack([_focal_of_prior(loss, logits, labels, row) for row in range(len(labels))])
    total = (rows * weight).sum() / divisor
    total.backward()
    case.check("loss", total)
    case.check("grad_logits", logits.grad)
    # A class alone is a loss over one column; its label is 0 where it was this class, else the background.
    count, num_classes = case.arrays["loss_elementwise"].shape
    ours = [[_focal_of_prior(loss, logits.detach()[:, k : k + 1], (labels != k).long(), row)
             for k in range(num_classes)] for row in range(count)]
    case.check("loss_elementwise", torch.tensor(ours))


def _focal_of_prior(loss: Focal, logits: torch.Tensor, labels: torch.Tensor, row: int) -> torch.Tensor:
    num_priors, num_classes = logits.shape
    prior = torch.nonzero(labels < num_classes)[:, 0]
    boxes, none = torch.zeros(1, num_priors, 4), torch.zeros_like(prior)
    ignore = torch.ones(1, num_priors, dtype=torch.bool)
    ignore[0, row] = False
    output = DenseOutput(logits[None], boxes, boxes, Priors(boxes[0, :, :2], boxes[0, :, 0], (num_priors,)))
    target = Target(torch.zeros(len(prior), 4), labels[prior], none.bool(), (1, 1), (1, 1))
    matched = Matched(output, [target], Matches(none, prior, torch.arange(len(prior)), ignore))
    return loss(matched) * matched.num_positive  # our own divisor is undone: the case has another


def iou(kind: str):
    """A replay of one kind of IoU loss."""

    def replay(case: Case) -> None:
        mode = case.hyper.get("mode", kind)
        boxes = case.input("pred").requires_grad_()
        rows = iou_loss(boxes, case.input("target"), mode, case.hyper["eps"])
        total = (rows * case.input("weight")).sum() / case.input("avg_factor")
        total.backward()
        case.check("loss_rows", rows)
        case.check("loss", total)
        case.check("grad_pred", boxes.grad)

    return replay
