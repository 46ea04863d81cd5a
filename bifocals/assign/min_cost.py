"""OneNet's matching: each object takes the prediction that costs least (arXiv:2012.05780, Eq. 1).

Letters: P priors, G objects of an image, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import generalized_box_iou

from bifocals.structures import Match, Prediction, Priors, Target, to_cxcywh

from .hungarian import match_rows


@dataclass(frozen=True)
class MinCost:
    """Matches objects and predictions at the least total of class, L1 and GIoU cost; there is no center prior.

    cost = cls * (focal loss of being the class - focal loss of not being it) + l1 * |box - target|_1 - giou * GIoU,
    the L1 on boxes divided by the un-padded image size.

    box_format: "cxcywh" is the DATE port's, "xyxy" the original OneNet's. eps: inside the logarithms, 1e-12 and 1e-8.
    solver: "hungarian" gives every object its own prior. "argmin" gives every object its cheapest prior, so that two
    objects may share one.
    """

    cls: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    box_format: Literal["cxcywh", "xyxy"] = "cxcywh"
    solver: Literal["hungarian", "argmin"] = "hungarian"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    eps: float = 1e-12

    def __post_init__(self) -> None:
        if min(self.cls, self.l1, self.giou) < 0:
            raise ValueError(f"MinCost expected weights cls, l1, giou of 0 or more, got "
                             f"{(self.cls, self.l1, self.giou)}.")
        if self.box_format not in ("cxcywh", "xyxy") or self.solver not in ("hungarian", "argmin"):
            raise ValueError(f"MinCost expected box_format 'cxcywh' or 'xyxy' and solver 'hungarian' or 'argmin', got "
                             f"{self.box_format!r} and {self.solver!r}.")

    @torch.no_grad()
    def __call__(self, priors: Priors, target: Target, prediction: Prediction) -> Match:
        num_objects = len(target.labels)
        if num_objects == 0:
            return Match.empty(target.boxes.device)
        cost = self.cost_terms(target, prediction).sum(dim=0)  # [P, G]
        if self.solver == "argmin":
            return Match(cost.argmin(dim=0), torch.arange(num_objects, device=cost.device))
        rows = self._rows_that_matter(cost)
        row, gt = match_rows(cost[rows], who="MinCost")
        return Match(rows[row], gt)

    def cost_terms(self, target: Target, prediction: Prediction) -> Float[Tensor, "3 P G"]:
        """The weighted class, L1 and GIoU cost of every prediction for every object."""
        probability = prediction.logits.sigmoid()  # [P, C]
        is_class = -(probability + self.eps).log() * self.focal_alpha * (1 - probability) ** self.focal_gamma
        not_class = -(1 - probability + self.eps).log() * (1 - self.focal_alpha) * probability**self.focal_gamma
        cls = (is_class - not_class)[:, target.labels]  # [P, G]
        height, width = target.size_hw
        size = prediction.boxes.new_tensor([width, height, width, height])
        boxes, objects = prediction.boxes, target.boxes
        giou = generalized_box_iou(boxes, objects)
        if self.box_format == "cxcywh":
            boxes, objects = to_cxcywh(boxes), to_cxcywh(objects)
        l1 = torch.cdist(boxes / size, objects / size, p=1)
        # Two boxes without area have GIoU 0 / 0; such a pair is as bad as two boxes that touch in a point.
        giou = torch.where(torch.isnan(giou) & torch.isfinite(l1), 0.0, giou)
        return torch.stack([self.cls * cls, self.l1 * l1, -self.giou * giou])

    def _rows_that_matter(self, cost: Tensor) -> Tensor:
        # In an optimal matching an object never needs more than its G cheapest rows: at most G - 1 are taken by others.
        num_rows, num_objects = cost.shape
        if num_objects * num_objects >= num_rows or not torch.isfinite(cost).all():
            return torch.arange(num_rows, device=cost.device)
        keep = torch.zeros(num_rows, dtype=torch.bool, device=cost.device)
        keep[cost.topk(num_objects, dim=0, largest=False).indices.reshape(-1)] = True
        return torch.nonzero(keep)[:, 0]
