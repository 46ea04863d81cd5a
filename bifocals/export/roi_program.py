"""What the exported file of a two-stage detector computes: all of it, with as many regions of interest each time.

Letters: B images, R regions of interest (RoIs) of an image, C classes, S candidates (before NMS), K detections, m cells
of a mask's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor, nn

from bifocals.networks import TwoStageDetector
from bifocals.predict import RoIPostprocess
from bifocals.structures import DenseOutput, clip_boxes

from .class_nms import class_nms
from .roi_pool import with_graph_pools

_LEAST = 1e-30
"""Score of a proposal that a sigmoid rounded to 0: it is still one, and 0 means that there is none."""


class RoIProgram(nn.Module):
    """images [B 3 H W], RGB 0..255, bytes or floats -> boxes [B K 4], scores [B K], labels [B K], best first, and from
    a network with masks the probabilities of each, [B K m m].

    As `Program`; the second input, `size_hw` [B 2], is there where suppression or masks need it. `ProposalChoice.keep`
    RoIs of each image go through the second stage, also where there are fewer proposals.
    """

    def __init__(self, network: TwoStageDetector, postprocess: RoIPostprocess) -> None:
        super().__init__()
        assigner, network.assigner = network.assigner, None  # not for files, and perhaps large
        try:
            self.network: Any = with_graph_pools(network)
        finally:
            network.assigner = assigner
        self.postprocess = postprocess

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes", "scores", "labels") + (() if self.network.mask is None else ("masks",))

    @property
    def takes_size(self) -> bool:
        return self.postprocess.nms is not None or self.network.mask is not None

    def forward(
        self, images: Num[Tensor, "B 3 H W"], size_hw: Int64[Tensor, "B 2"] | None = None
    ) -> tuple[Tensor, ...]:
        net, p = self.network, self.postprocess
        canvas = (images.shape[2], images.shape[3])
        levels = net.neck(net.backbone(images))
        levels = levels if net.hook is None else net.hook(levels)
        rois, real = self.propose(net.rpn(levels), canvas)
        logits, deltas = net.roi(levels, rois.flatten(0, 1), _image_of(rois))
        num_classes = deltas.shape[1]
        scores = logits.float().softmax(dim=1)[:, :-1].unflatten(0, rois.shape[:2])  # [B, R, C]
        scores = torch.where((scores > p.score_threshold) & real[..., None], scores, 0.0)
        # Where as many as `per_level` cannot pass, since the classes of a RoI share a probability of 1, nothing is cut.
        passing = num_classes if p.score_threshold == 0 else min(num_classes, int(1 / p.score_threshold))
        if rois.shape[1] * passing > p.per_level:
            scores = _best(scores.flatten(1), p.per_level).view_as(scores)
        boxes = net.roi.coder.decode(rois[:, :, None], deltas.unflatten(0, rois.shape[:2]))  # [B, R, C, 4]
        boxes = clip_boxes(boxes, canvas)
        if size_hw is not None:
            boxes = torch.minimum(boxes, size_hw.flip(1).to(boxes.dtype).repeat(1, 2)[:, None, None, :])
        scores = torch.where((boxes[..., 2:] > boxes[..., :2]).all(dim=-1), scores, 0.0)
        if p.nms is not None:
            scores = self.suppressed(boxes, scores)
        best = scores.flatten(1).topk(min(p.max_detections, rois.shape[1] * num_classes), dim=1)
        labels = best.indices - best.indices // num_classes * num_classes
        found = boxes.flatten(1, 2).gather(1, best.indices[..., None].expand(-1, -1, 4))
        if net.mask is None:
            return found, best.values, labels
        return found, best.values, labels, self.masks(levels, found, labels)

    def propose(
        self, output: DenseOutput, canvas_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "B R 4"], Bool[Tensor, "B R"]]:
        """The proposals of each image, best first, and which of them are real: `ProposalChoice` in fixed shapes."""
        choice = self.network.choice
        logits = output.logits[..., 0].float()
        first, chosen, level = 0, [], []
        for number, size in enumerate(output.priors.level_sizes):
            place = logits[:, first : first + size].topk(min(choice.per_level, size), dim=1).indices
            chosen.append(place + first)
            level.append(torch.full_like(place, number))
            first += size
        index = torch.cat(chosen, dim=1)  # [B, S]
        boxes = clip_boxes(output.boxes.gather(1, index[..., None].expand(-1, -1, 4)).float(), canvas_hw)
        scores = logits.gather(1, index).sigmoid().clamp(min=_LEAST)
        real = ((boxes[..., 2:] - boxes[..., :2]) > choice.min_side).all(dim=-1)
        scores = torch.where(real, scores, 0.0)
        kept = class_nms(boxes, scores, torch.cat(level, dim=1), len(level), choice.nms, choice.keep)
        best = torch.where(kept, scores, 0.0).topk(min(choice.keep, scores.shape[1]), dim=1)
        return boxes.gather(1, best.indices[..., None].expand(-1, -1, 4)), best.values > 0

    def suppressed(
        self, boxes: Float[Tensor, "B R C 4"], scores: Float[Tensor, "B R C"]
    ) -> Float[Tensor, "B R C"]:
        """The scores, 0 where a better detection of the class overlaps too much. Each class has boxes of its own, so
        each class of each image is suppressed as if it were an image."""
        p = self.postprocess
        assert p.nms is not None
        of_class, rows = scores.transpose(1, 2), boxes.transpose(1, 2)  # [B, C, R]
        flat = of_class.flatten(0, 1)
        none = torch.zeros_like(flat, dtype=torch.int64)
        kept = class_nms(rows.flatten(0, 1), flat, none, 1, p.nms, p.max_detections)
        return torch.where(kept.view_as(of_class).transpose(1, 2), scores, 0.0)

    def masks(
        self, levels: Sequence[Tensor], boxes: Float[Tensor, "B K 4"], labels: Int64[Tensor, "B K"]
    ) -> Float[Tensor, "B K m m"]:
        """The mask of each detection, of its class."""
        assert self.network.mask is not None
        logits = self.network.mask(levels, boxes.flatten(0, 1), _image_of(boxes))  # [B * K, C, m, m]
        own = labels.flatten()[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, own)[:, 0].float().sigmoid().unflatten(0, boxes.shape[:2])


def _image_of(boxes: Float[Tensor, "B R 4"]) -> Int64[Tensor, "B*R"]:
    """The image of each box."""
    return torch.arange(boxes.shape[0])[:, None].expand(-1, boxes.shape[1]).reshape(-1)


def _best(scores: Float[Tensor, "B S"], k: int) -> Float[Tensor, "B S"]:
    """The k greatest scores of each row in their places, 0 elsewhere."""
    best = scores.topk(k, dim=1)
    return torch.zeros_like(scores).scatter(1, best.indices, best.values)
