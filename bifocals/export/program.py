"""What an exported file computes: the network with one output, decoding, and the choice of detections.

Letters: B images, P priors, C classes, K detections of an image, S candidates of an image (a prior and a class each).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn

from bifocals.networks import prune
from bifocals.predict import Postprocess
from bifocals.structures import DenseOutput, clip_boxes

from .class_nms import class_nms


class Program(nn.Module):
    """images [B 3 H W], RGB 0..255, bytes or floats -> boxes [B K 4], scores [B K], labels [B K], best first.

    Boxes are xyxy pixels of the input, cut to it. Where an image has fewer than K detections the last scores are 0, and
    their boxes and labels mean nothing. An output with NMS takes a second input, `size_hw` [B 2]: height and width of
    the un-padded image inside the input, because boxes are cut to it before they suppress each other.
    Without NMS there is no such input and the graph holds no NonMaxSuppression.

    All shapes but B are fixed; everything that the eager `Postprocess` decides is decided here in the same order.
    """

    def __init__(self, network: nn.Module, output: str, postprocess: Postprocess) -> None:
        super().__init__()
        self.network = prune(network, output)
        self.output = output
        self.postprocess = postprocess

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes", "scores", "labels")

    @property
    def takes_size(self) -> bool:
        return self.postprocess.nms is not None

    def forward(
        self, images: Num[Tensor, "B 3 H W"], size_hw: Int64[Tensor, "B 2"] | None = None
    ) -> tuple[Float[Tensor, "B K 4"], Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        return self.choose(self.network(images)[self.output], (images.shape[2], images.shape[3]), size_hw)

    def choose(
        self, output: DenseOutput, input_hw: tuple[int, int], size_hw: Int64[Tensor, "B 2"] | None = None
    ) -> tuple[Float[Tensor, "B K 4"], Float[Tensor, "B K"], Int64[Tensor, "B K"]]:
        """What follows the network."""
        p = self.postprocess
        if p.nms is None and output.quality is None and p.per_level >= p.max_detections:
            prior, label, logit = _top_pairs(output.logits, p.max_detections)
            score = _above(logit.sigmoid(), p.score_threshold)
            return clip_boxes(_rows(output.boxes, prior), input_hw), score, label
        prior, label, score = self._candidates(output)
        boxes = clip_boxes(_rows(output.boxes, prior), input_hw)
        if p.nms is not None:
            assert size_hw is not None
            limit = size_hw.flip(1).to(boxes.dtype).repeat(1, 2)[:, None, :]  # [B, 1, (W, H, W, H)]
            boxes = torch.minimum(boxes, limit)
            real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
            score = torch.where(real, score, 0.0)
            keep = class_nms(boxes, score, label, output.num_classes, p.nms, p.max_detections)
            score = torch.where(keep, score, 0.0)
        best = score.topk(min(p.max_detections, score.shape[1]), dim=1)
        return _rows(boxes, best.indices), best.values, label.gather(1, best.indices)

    def _candidates(self, output: DenseOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Prior, class and score [B S] of the best pairs of each level; score 0 where the class is not probable."""
        p = self.postprocess
        first, priors, labels, logits = 0, [], [], []
        for level in output.logits.split(list(output.priors.level_sizes), dim=1):
            prior, label, logit = _top_pairs(level, p.per_level)
            priors.append(prior + first)
            labels.append(label)
            logits.append(logit)
            first += level.shape[1]
        prior, score = torch.cat(priors, dim=1), _above(torch.cat(logits, dim=1).sigmoid(), p.score_threshold)
        if output.quality is not None:
            score = score * output.quality.gather(1, prior).sigmoid()
        return prior, torch.cat(labels, dim=1), score


def _top_pairs(logits: Float[Tensor, "B P C"], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """`bifocals.predict.top_pairs` as a graph: ONNX's TopK puts equal numbers in the order of their index by itself."""
    num_priors, num_classes = logits.shape[1:]
    if num_classes == 1:
        best = logits[..., 0].topk(min(k, num_priors), dim=1)
        return best.indices, torch.zeros_like(best.indices), best.values
    if k < num_priors:
        priors = logits.amax(dim=2).topk(k, dim=1).indices.sort(dim=1).values
        rows = logits.gather(1, priors[..., None].expand(-1, -1, num_classes)).flatten(1)  # [B, k * C]
    else:
        rows = logits.flatten(1)
    pairs = rows.topk(min(k, rows.shape[1]), dim=1)
    place = pairs.indices // num_classes
    label = pairs.indices - place * num_classes  # in ONNX cheaper than a second remainder
    return (priors.gather(1, place) if k < num_priors else place), label, pairs.values


def _rows(values: Float[Tensor, "B P 4"], index: Int64[Tensor, "B K"]) -> Float[Tensor, "B K 4"]:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def _above(score: Tensor, threshold: float) -> Tensor:
    return torch.where(score > threshold, score, 0.0)

