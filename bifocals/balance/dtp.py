"""DTP: "Dynamic Task Prioritization for Multitask Learning", ECCV 2018, at the level of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import Matched, sum_over_ranks

from .sides import Sides

KPI = Literal["probability", "accuracy", "softmax"]
RANGE = (0.01, 0.99)


class DTP(nn.Module):
    """Gives the side that does worse the larger weight, by a focal loss of how well it does.

    With k the moving average of a side's performance, k(t) = a kappa(t) + (1 - a) k(t - 1), its weight is
    FL(k; g) = -(1 - k)^g ln k. Before the first positive is seen the weights are 1.

    The performances are ours, as ALWA's paper names none. Of boxes: the mean IoU of the decoded boxes of the positives
    with their objects. Of classes, kpi: "probability", the mean probability that positives give their class. For heads
    that sample: "accuracy", the part of the priors in the class loss whose every class is decided right (a probability
    of more than .5 or not), and "softmax", the same where the largest logit decides and the last is background.
    decay: a. focus: g of class side and box side. normalize: scale the weights to a sum of 2; the paper does not, so
    both fall as the detector gets better, and with them the learning rate. faithful: k as it is; a k of 0 has an
    infinite weight, which makes the losses of the next step infinite, and the engine stops the run there. Otherwise k
    is kept in [0.01, 0.99]. sides: which losses are which.

    The example level of the paper is the focal loss, which a recipe has or not.

    `watch` is shown each micro-batch; `observe` closes the step, with one reduction of the sums of all ranks, so the
    weights are equal on all ranks. In eval mode nothing changes. ValueError if the branch never calls `watch`.
    """

    performance: Tensor
    focus: Tensor
    sums: Tensor

    def __init__(
        self,
        kpi: KPI = "probability",
        *,
        decay: float = 0.1,
        focus: tuple[float, float] = (1.0, 1.0),
        normalize: bool = False,
        faithful: bool = False,
        sides: Sides = Sides(),
    ) -> None:
        super().__init__()
        if kpi not in get_args(KPI):
            raise ValueError(f"DTP knows kpi {get_args(KPI)}, got {kpi!r}.")
        if not 0 < decay <= 1 or min(focus) < 0:
            raise ValueError(f"DTP expected decay in (0, 1] and focus of 0 or more, got {decay} and {focus}.")
        self.kpi, self.decay, self.normalize, self.faithful = kpi, decay, normalize, faithful
        self.sides = sides
        self.register_buffer("focus", torch.tensor(focus), persistent=False)
        self.register_buffer("performance", torch.full((2,), torch.nan))
        # Numerators and denominators of this step: class side, box side. Empty at each checkpoint.
        self.register_buffer("sums", torch.zeros(2, 2), persistent=False)
        self._watched = False

    def weights(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The weights of class side and box side in the next step."""
        k = self.performance if self.faithful else self.performance.clamp(*RANGE)
        weights = (1 - k).pow(self.focus) * -k.log()
        if self.normalize:
            weights = 2 * weights / weights.sum()
        cls, reg = torch.where(self.performance.isnan(), 1.0, weights).unbind()
        return cls, reg

    def forward(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss under its base weight and the weight of its side."""
        with torch.no_grad():
            cls, reg = self.weights()
        return self.sides.weigh(raw, cls, reg)

    @torch.no_grad()
    def watch(self, matched: Matched) -> None:
        """Adds a micro-batch to the performances of this step."""
        if not self.training:
            return
        self._watched = True
        right, judged = self._classes(matched)
        boxes = matched.iou.detach()
        self.sums = self.sums + torch.stack([torch.stack([right, judged]),
                                             torch.stack([boxes.sum(), boxes.new_full((), len(boxes))])])

    def _classes(self, matched: Matched) -> tuple[Tensor, Tensor]:
        if self.kpi == "probability":
            probability = matched.probability.detach()
            return probability.sum(), probability.new_full((), len(probability))
        logits, matches = matched.output.logits.detach(), matched.matches
        if self.kpi == "softmax":
            labels = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
            labels[matches.image, matches.prior] = matched.target_labels
            wrong = logits.argmax(dim=2) != labels  # [B, P]
        else:
            wrong = ((logits > 0) != (matched.class_targets > 0)).any(dim=2)
        judged = torch.ones_like(wrong) if matched.counted is None else matched.counted
        return (judged & ~wrong).sum().float(), judged.sum().float()

    @torch.no_grad()
    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Moves both performances by those of the step; a side that judged nothing stays."""
        if not self.training:
            return
        if not self._watched:
            raise ValueError("DTP expected its branch to show it the matched view by Branch.watch, got losses alone.")
        self.sides.based(raw)  # says what is missing
        found, count = sum_over_ranks(self.sums).unbind(dim=1)  # [2] each
        kappa = found / count
        first = self.performance.isnan()
        moved = torch.where(first, kappa, self.decay * kappa + (1 - self.decay) * self.performance)
        self.performance = torch.where((count > 0) & kappa.isfinite(), moved, self.performance)
        self.sums = torch.zeros_like(self.sums)

    def scheduled(self) -> dict[str, float]:
        """The performances so far, where there are any, and the weights in the next step."""
        kpis, weights = torch.stack([self.performance, torch.stack(self.weights())]).tolist()
        told = {"weight_cls": weights[0], "weight_reg": weights[1]}
        return told | {n: k for n, k in zip(("kpi_cls", "kpi_reg"), kpis, strict=True) if k == k}
