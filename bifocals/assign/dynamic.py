"""A threshold of the IoU that rises as proposals get better (Dynamic R-CNN, arXiv:2004.06002, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bifocals.structures import History, Match, Prediction, Priors, Target

from .max_iou import MaxIoU
from .sampled import Sampled

DynamicRule = Literal["mmdet", "original"]


class DynamicIoU(nn.Module):
    """`Sampled(MaxIoU)` whose one threshold for objects and background follows the proposals (Algorithm 1).

    The network shows `observe` the proposals of each forward in training: noted is how well the `rank`-th best
    proposal of an image overlaps its object. After every `every` forwards the threshold becomes the mean of what was
    noted, but at least `initial`.

    rule: "mmdet" averages the `rank`-th IoU over images and starts at the threshold of `sampled`; "original" takes the
    (`rank` * images)-th of all proposals of the batch and starts at `initial`. Ranks note their mean, so the threshold
    is the same on all of them. The threshold and what was noted are buffers.
    """

    threshold: Tensor

    def __init__(
        self,
        sampled: Sampled,
        initial: float = 0.4,
        rank: int = 75,
        every: int = 100,
        rule: DynamicRule = "mmdet",
    ) -> None:
        super().__init__()
        if not isinstance(sampled.assigner, MaxIoU):
            raise ValueError(f"DynamicIoU expected a sampled MaxIoU, got one of {type(sampled.assigner).__name__}.")
        if not 0 <= initial <= 1 or rank < 1 or every < 1:
            raise ValueError(f"DynamicIoU expected initial in [0, 1] and rank and every of 1 or more, got {initial}, "
                             f"{rank} and {every}.")
        if rule not in get_args(DynamicRule):
            raise ValueError(f"DynamicIoU expected rule of {get_args(DynamicRule)}, got {rule!r}.")
        self.sampled, self.assigner = sampled, sampled.assigner
        self.initial, self.rank, self.rule = initial, rank, rule
        start = initial if rule == "original" else sampled.assigner.positive
        self.register_buffer("threshold", torch.tensor(float(start)))
        self.history = History(every)

    def forward(self, priors: Priors, target: Target, prediction: Prediction | None = None) -> Match:
        now = float(self.threshold)
        assigner = replace(self.assigner, positive=now, negative=now, min_positive=now)
        return replace(self.sampled, assigner=assigner)(priors, target, prediction)

    @torch.no_grad()
    def observe(self, priors: Sequence[Priors], targets: Sequence[Target]) -> None:
        """Notes the overlaps of a batch, one set of proposals an image, the boxes of its objects among them."""
        if not self.training:
            return
        best = []
        for proposals, target in zip(priors, targets, strict=True):
            overlaps = self.assigner.overlaps(proposals, target)  # [P, G]
            best.append(overlaps.amax(dim=1) if len(target.boxes) else overlaps.new_zeros(len(proposals)))
        if self.rule == "original":
            best = [torch.cat(best)]
        rank = self.rank * (len(targets) if self.rule == "original" else 1)
        noted = [values.topk(min(rank, len(values))).values[-1] for values in best if len(values)]
        value = torch.stack(noted).mean() if noted else self.threshold.new_tensor(torch.nan)
        full = self.history.note(value)
        mean = self.history.mean()
        self.threshold.copy_(torch.where(full & ~mean.isnan(), mean.clamp(min=self.initial), self.threshold))

    def scheduled(self) -> dict[str, float]:
        return {"iou_threshold": float(self.threshold)}
