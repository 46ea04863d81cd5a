"""Smooth L1 that grows stricter as boxes get better (Dynamic R-CNN, arXiv:2004.06002, section 3.3).

Letters: M RoIs with an object.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bifocals.structures import DeltaCoder, History, Matched, Normalizer

DynamicRule = Literal["mmdet", "original"]
LEAST = 1e-15


class DynamicSmoothL1(nn.Module):
    """`SmoothL1` whose beta follows the errors of the best proposals (Algorithm 1).

    Each forward in training notes the k-th smallest error mean(|dx|, |dy|) of the target deltas, k = `rank` times the
    number of images or as many as there are. After every `every` forwards beta becomes the median of what was noted,
    but at most `initial`; a median below 1e-15 leaves it as it is, and so does a time without any object. A forward
    uses the beta from before.

    rule: "mmdet" takes all RoIs with an object, among them the boxes of the objects themselves, whose error is 0, and
    the median of an even number is the mean of the two in its middle; "original" takes the proposals alone and the
    upper of the two. (The original counts the proposals before they are sampled, of which there may be more than a
    loss sees.) Ranks note their mean, so beta is the same on all of them. beta and what was noted are buffers.

    coder, normalizer: as in `SmoothL1`.
    """

    beta: Tensor

    def __init__(
        self,
        coder: DeltaCoder = DeltaCoder(),
        normalizer: Normalizer = "reduced",
        initial: float = 1.0,
        rank: int = 10,
        every: int = 100,
        rule: DynamicRule = "mmdet",
    ) -> None:
        super().__init__()
        if initial <= 0 or rank < 1 or every < 1:
            raise ValueError(f"DynamicSmoothL1 expected initial above 0 and rank and every of 1 or more, got "
                             f"{initial}, {rank} and {every}.")
        if rule not in get_args(DynamicRule):
            raise ValueError(f"DynamicSmoothL1 expected rule of {get_args(DynamicRule)}, got {rule!r}.")
        self.coder, self.normalizer, self.initial, self.rank, self.rule = coder, normalizer, initial, rank, rule
        self.register_buffer("beta", torch.tensor(float(initial)))
        self.history = History(every)

    def forward(self, matched: Matched) -> Float[Tensor, ""]:
        targets = self.coder.encode(matched.anchors, matched.target_boxes)
        distance = (matched.deltas - targets).abs()
        # Not F.smooth_l1_loss, which takes no tensor for beta.
        loss = torch.where(distance < self.beta, distance**2 / (2 * self.beta), distance - self.beta / 2).sum()
        loss = loss / matched.normalizer(self.normalizer)
        if self.training:
            self._note(targets.detach(), matched)
        return loss

    @torch.no_grad()
    def _note(self, targets: Float[Tensor, "M 4"], matched: Matched) -> None:
        errors = targets[:, :2].abs().mean(dim=1)
        if self.rule == "original":
            errors = errors[errors > 0]
        rank = min(self.rank * matched.num_images, len(errors))
        full = self.history.note(errors.kthvalue(rank).values if rank else errors.new_tensor(torch.nan))
        median = self.history.median(upper=self.rule == "original")
        # A picture with many objects has as many errors of 0; a beta of 0 would be divided by.
        beta = torch.where(median > LEAST, median.clamp(max=self.initial), self.beta)
        self.beta.copy_(torch.where(full, beta, self.beta))

    def scheduled(self) -> dict[str, float]:
        return {"beta": float(self.beta)}
