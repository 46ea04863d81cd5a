"""From the output of an RPN to the proposals of each image (arXiv:1506.01497, section 3.3; per level as in FPN).

Letters: B images, P anchors of all levels, N proposals of an image, S anchors that are left before NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms

from bifocals.structures import DenseOutput, clip_boxes, stable_top


@dataclass(frozen=True)
class Proposals:
    """Where objects may be in one image, best first: xyxy pixels of the canvas, scores in [0, 1]."""

    boxes: Float[Tensor, "N 4"]
    scores: Float[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class ProposalChoice:
    """Decides which boxes of an RPN are proposals.

    1. Of each level the `per_level` boxes with the best scores stay, equal scores in the order of the anchors.
    2. They are cut to the image, and those whose sides are not above `min_side` pixels are dropped.
    3. Of boxes of one level whose IoU is above `nms` the better one stays.
    4. The best `keep` of all levels are the proposals.
    """

    per_level: int = 1000
    nms: float = 0.7
    keep: int = 1000
    min_side: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_level", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"ProposalChoice expected {name} of at least 1, got {getattr(self, name)}.")
        if not 0 < self.nms <= 1:
            raise ValueError(f"ProposalChoice expected nms, an IoU, in (0, 1], got {self.nms}.")
        if self.min_side < 0:
            raise ValueError(f"ProposalChoice expected min_side of 0 or more, got {self.min_side}.")

    @torch.no_grad()
    def __call__(self, output: DenseOutput, sizes_hw: Sequence[tuple[int, int]]) -> list[Proposals]:
        """The proposals of each image, without gradient, in float32. sizes_hw: pixels of each image before padding."""
        logits, device = output.logits.detach()[..., 0].float(), output.logits.device
        if device.type == "meta":  # without values nothing is chosen; as many as there may be
            return [Proposals(logits.new_empty(self.keep, 4), logits.new_empty(self.keep)) for _ in sizes_hw]
        starts, sizes = output.priors.level_starts, output.priors.level_sizes
        best = [
            stable_top(logits[:, start : start + size], min(self.per_level, size)) + start
            for start, size in zip(starts, sizes, strict=True)
        ]
        level = torch.cat([torch.full(b.shape[1:], i, device=device) for i, b in enumerate(best)])  # [S]
        chosen = torch.cat(best, dim=1)  # [B, S]
        scores = logits.gather(1, chosen).sigmoid()
        boxes = output.boxes.detach().gather(1, chosen[..., None].expand(-1, -1, 4)).float()
        return [self._of_image(clip_boxes(boxes[i], size), scores[i], level) for i, size in enumerate(sizes_hw)]

    def _of_image(self, boxes: Float[Tensor, "S 4"], scores: Float[Tensor, "S"], level: Tensor) -> Proposals:
        # NaN is not above anything: boxes of a network that diverged drop out here, and its loss is reported.
        real = ((boxes[:, 2:] - boxes[:, :2]) > self.min_side).all(dim=1).nonzero()[:, 0]
        boxes, scores, level = boxes[real], scores[real], level[real]
        kept = batched_nms(boxes, scores, level, self.nms)[: self.keep]
        return Proposals(boxes[kept], scores[kept])
