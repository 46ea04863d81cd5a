"""The mask loss of Mask R-CNN (arXiv:1703.06870, section 3).

Letters: M RoIs with an object, G objects of an image, C classes, m cells of a mask's side, h and w pixels of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.ops import roi_align

from bifocals.structures import RoIOutput, Target, sum_over_ranks, world_size


def mask_targets(
    masks: UInt8[Tensor, "G h w"],
    gt: Int64[Tensor, "M"],
    rois: Float[Tensor, "M 4"],
    size: int = 28,
    aligned: bool = True,
    binary: bool = True,
) -> Float[Tensor, "M m m"]:
    """What of its object's mask lies in each cell of a RoI: 1 where at least half of it is object, else 0.

    gt: the object of each RoI. rois: xyxy pixels of the image. What lies beyond the image is no object. binary: False
    gives the share instead, as torchvision does, whose `roi_align` is also not aligned.
    """
    rows = torch.cat([gt[:, None].to(rois.dtype), rois], dim=1)
    share = roi_align(masks[:, None].to(rois.dtype), rows, size, aligned=aligned)[:, 0]  # [M, m, m]
    return (share >= 0.5).to(share.dtype) if binary else share


@dataclass(frozen=True)
class MaskLoss:
    """Binary cross-entropy between the mask logits of a RoI's own class and `mask_targets`, mean over cells and RoIs.

    It reads a whole `RoIOutput` in training and the masks of the targets. 0, with its graph, where no RoI has an
    object. The number of RoIs is averaged over ranks, as `Matched.num_positive` is.

    aligned, binary: see `mask_targets`.
    """

    aligned: bool = True
    binary: bool = True

    def __call__(self, output: RoIOutput, targets: Sequence[Target]) -> Float[Tensor, ""]:
        if output.mask_logits is None or output.matches is None:
            raise ValueError("MaskLoss was given an output without mask_logits or matches: it belongs to a network "
                             "with a mask head, in training.")
        matches = output.matches
        order = matches.image.argsort(stable=True)
        sizes = torch.bincount(matches.image, minlength=len(targets)).tolist()  # the only wait for the device
        gt = matches.gt[order].split(sizes)
        rois = output.rois[matches.prior[order]].split(sizes)
        wanted, labels = [], []
        for i, target in enumerate(targets):
            if target.masks is None:
                raise ValueError(f"MaskLoss expected targets with masks, got image {target.image_id} without: its data "
                                 "set has boxes alone, and faster_rcnn learns from those.")
            side = output.mask_logits.shape[-1]
            wanted.append(mask_targets(target.masks, gt[i], rois[i], side, self.aligned, self.binary))
            labels.append(target.labels[gt[i]])
        label = torch.cat(labels)
        logits = output.mask_logits[order, label]  # [M, m, m]
        rows = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="none").mean(dim=(1, 2))
        count = sum_over_ranks(rows.new_tensor(float(len(label)))).clamp(min=1) / world_size()
        return rows.sum() / count
