"""OneNet's matching: each object takes the prediction that costs least (arXiv:2012.05780, Eq. 1).

Letters: P priors, G objects of an image, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bifocals.structures import Match, Prediction, Priors, Target, to_cxcywh

from .hungarian import match_rows, object_prices


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
        """The match of one image.

        The result is that of the full matrix, but GIoU, its dear part, is computed only where it can matter. First the
        matching is solved on the priors of the least class and L1 cost. It tells what each object is worth at most
        (`object_prices`); GIoU being at most 1, only priors below that plus its weight can change the matching.
        """
        num_objects, device = len(target.labels), target.boxes.device
        if num_objects == 0:
            return Match.empty(device)
        floor = self._l1_cost(target, prediction).add_(self._class_cost(target, prediction))  # [G, P]
        if not torch.isfinite(floor.sum()):
            bad = ~torch.isfinite(floor).all(dim=0)
            raise ValueError(f"MinCost expected finite predictions, got {int(bad.sum())} of {len(bad)} priors with "
                             "others: the predictions have diverged.")
        matter = torch.zeros(len(priors), dtype=torch.bool, device=device)
        matter[floor.topk(min(len(priors), 8), largest=False).indices.flatten()] = True
        _, price = self._solve(floor, target, prediction, matter)
        gt, prior = torch.nonzero(floor < (price + self.giou)[:, None], as_tuple=True)
        cost = floor[gt, prior] + self._giou_cost(target.boxes[gt], prediction.boxes[prior])
        # With more priors to choose from prices only fall, so one above all prices now can be left out for good.
        matter[prior[cost < price[gt]]] = True
        return self._solve(floor, target, prediction, matter)[0]

    def _solve(self, floor: Tensor, target: Target, prediction: Prediction, matter: Tensor) -> tuple[Match, Tensor]:
        """The cheapest match within the priors that matter, and the price of each object there."""
        rows = torch.nonzero(matter)[:, 0]
        cost = floor[:, rows] + self._giou_cost(target.boxes[:, None], prediction.boxes[rows][None])  # [G, R]
        if self.solver == "argmin":
            price, row = cost.min(dim=1)
            return Match(rows[row], torch.arange(len(cost), device=cost.device)), price
        row, gt = match_rows(cost.T, who="MinCost")
        return Match(rows[row], gt), object_prices(cost.T, row, gt)

    def cost_terms(self, target: Target, prediction: Prediction) -> Float[Tensor, "3 P G"]:
        """The weighted class, L1 and GIoU cost of every prediction for every object."""
        giou = self._giou_cost(target.boxes[:, None], prediction.boxes[None])
        terms = [self._class_cost(target, prediction), self._l1_cost(target, prediction), giou]
        return torch.stack(terms).transpose(1, 2)

    def _class_cost(self, target: Target, prediction: Prediction) -> Float[Tensor, "G P"]:
        classes, of_object = target.labels.unique(return_inverse=True)
        p = prediction.logits.T.index_select(0, classes).sigmoid_()
        other = 1 - p
        # In place: on a CPU the time goes into memory, not into logarithms.
        cost = (p + self.eps).log_().mul_(other**self.focal_gamma).mul_(-self.cls * self.focal_alpha)
        not_class = (other + self.eps).log_().mul_(p**self.focal_gamma)
        return cost.add_(not_class, alpha=self.cls * (1 - self.focal_alpha)).index_select(0, of_object)

    def _l1_cost(self, target: Target, prediction: Prediction) -> Float[Tensor, "G P"]:
        height, width = target.size_hw
        size = prediction.boxes.new_tensor([width, height, width, height])
        boxes, objects = prediction.boxes, target.boxes
        if self.box_format == "cxcywh":
            boxes, objects = to_cxcywh(boxes), to_cxcywh(objects)
        return torch.cdist(objects / size, boxes / size, p=1).mul_(self.l1)

    def _giou_cost(self, objects: Float[Tensor, "*#M 4"], boxes: Float[Tensor, "*#M 4"]) -> Float[Tensor, "..."]:
        # By coordinates, so that objects [G, 1] and boxes [1, R] meet without building [G, R, 4].
        ax1, ay1, ax2, ay2 = (c.contiguous() for c in objects.unbind(-1))
        bx1, by1, bx2, by2 = (c.contiguous() for c in boxes.unbind(-1))
        width = torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)
        height = torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
        hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
        shared = width.clamp_(min=0) * height.clamp_(min=0)
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
        giou = shared / union + union / hull - 1
        # Two boxes without area have GIoU 0 / 0; such a pair is as bad as two boxes that touch in a point.
        return giou.nan_to_num_(nan=0.0).mul_(-self.giou)
