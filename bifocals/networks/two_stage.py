"""Two-stage detectors: an RPN proposes regions, a second head looks at each (Faster R-CNN, arXiv:1506.01497).

Letters: R regions of interest (RoIs) of all images of a batch, G objects, N proposals of an image, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bifocals.structures import DeltaCoder, DenseOutput, Match, Matches, Priors, RoIOutput, Target

from .proposals import ProposalChoice
from .roi_align import roi_levels
from .rpn import RPN

RoIAssigner = Callable[[Priors, Target], Match]
"""Says which RoIs answer for which objects of an image and which are looked at at all: an assigner of room `assign`,
wrapped in a sampler; what is not sampled is in `Match.ignore`."""


@runtime_checkable
class Observing(Protocol):
    """An assigner that learns from the regions of each batch in training, after it has matched them (Dynamic R-CNN)."""

    def observe(self, priors: Sequence[Priors], targets: Sequence[Target]) -> None: ...


class TwoStageDetector(nn.Module):
    """images [B, 3, H, W], RGB 0..255, H and W multiples of `size_divisor` -> "rpn", a `DenseOutput`, and "roi".

    In training, with targets, the boxes of the objects join the proposals, `assigner` says which of them are looked at,
    and the `RoIOutput` has the match of these. Else all proposals are RoIs.

    backbone, neck: C2..C5, then the levels that the RPN sees. hook: a part between pyramid and heads, levels -> levels
    (Libra's balanced pyramid), or None.
    roi: the head, (levels, rois [R, 4], image [R]) -> class logits [R, C+1] and deltas [R, C, 4], with the `coder` of
    these. mask: a head of the same call -> mask logits [R, C, m, m], or None.
    choice, training_choice: which boxes of the RPN are proposals. assigner: without one the network cannot be trained.
    objects: where their boxes join the proposals: "first" (mmdetection) or "last" (torchvision); it only decides which
    random numbers draw which RoIs.
    """

    size_divisor = 32
    outputs = ("rpn", "roi")

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: RPN,
        roi: nn.Module,
        *,
        choice: ProposalChoice = ProposalChoice(),
        training_choice: ProposalChoice = ProposalChoice(per_level=2000),
        assigner: RoIAssigner | None = None,
        objects: Literal["first", "last"] = "first",
        hook: nn.Module | None = None,
        mask: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.hook = hook
        self.rpn = rpn
        self.roi = roi
        self.mask = mask
        self.choice, self.training_choice = choice, training_choice
        self.assigner = assigner  # one with state is a module and so becomes part of the network
        self.objects = objects

    def forward(
        self, images: Tensor, targets: Sequence[Target] | None = None
    ) -> dict[str, DenseOutput | RoIOutput]:
        """targets: in evaluation only their sizes are read, without them images fill the canvas."""
        levels = self.neck(self.backbone(images))
        levels = levels if self.hook is None else self.hook(levels)
        proposed = self.rpn(levels)
        canvas = (images.shape[-2], images.shape[-1])
        sizes = [canvas] * len(images) if targets is None else [t.size_hw for t in targets]
        choose = self.training_choice if self.training else self.choice
        boxes = [found.boxes for found in choose(proposed, sizes)]
        matches = None
        if self.training and targets is not None:
            boxes, matches = self._sample(boxes, targets)
        rois = torch.cat(boxes)
        image = torch.cat([torch.full((len(b),), i, device=rois.device) for i, b in enumerate(boxes)])
        rois, image, matches = _fine_level_first(rois, image, matches)
        logits, deltas = self.roi(levels, rois, image)
        coder = self.roi.coder
        assert isinstance(coder, DeltaCoder)
        found = RoIOutput(logits, deltas, rois, image, coder, matches)
        if self.mask is not None:
            found = self._with_masks(found, levels)
        return {"rpn": proposed, "roi": found}

    def pruned(self, *outputs: str) -> TwoStageDetector:
        """A copy for inference. The second stage needs the first, so nothing is left out."""
        if "roi" not in outputs or not set(outputs) <= set(self.outputs):
            raise ValueError(f"TwoStageDetector.pruned expected outputs of {list(self.outputs)}, 'roi' among them, got "
                             f"{list(outputs)}.")
        return copy.deepcopy(self)

    @torch.no_grad()
    def _sample(self, boxes: Sequence[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], Matches]:
        """The RoIs to learn from and their match, `prior` counted over the RoIs of all images."""
        if self.assigner is None:
            raise ValueError("TwoStageDetector expected an assigner for its RoIs in training, got None.")
        sampled, images, priors, objects, before = [], [], [], [], 0
        seen: list[tuple[Priors, Target]] = []
        for i, (proposals, target) in enumerate(zip(boxes, targets, strict=True)):
            target = target.without_crowd()
            own = target.boxes.to(proposals.dtype)
            rois = torch.cat([own, proposals] if self.objects == "first" else [proposals, own])
            seen.append((Priors.of_boxes(rois), target))
            match = self.assigner(*seen[-1])
            ignore = torch.zeros_like(rois[:, 0], dtype=torch.bool) if match.ignore is None else match.ignore
            place = (~ignore).cumsum(0) - 1  # of each RoI among those that stay
            kept = rois[~ignore]
            sampled.append(kept)
            images.append(torch.full_like(match.prior, i))
            priors.append(before + place[match.prior])
            objects.append(match.gt)
            before += len(kept)
        if isinstance(self.assigner, Observing):
            self.assigner.observe(*zip(*seen, strict=True))
        return sampled, Matches(torch.cat(images), torch.cat(priors), torch.cat(objects))

    def _with_masks(self, found: RoIOutput, levels: Sequence[Tensor]) -> RoIOutput:
        """Mask logits of the RoIs with an object, or a function that gives the masks of detections."""
        mask = self.mask
        assert mask is not None
        if found.matches is not None:
            rows = found.matches.prior
            return replace(found, mask_logits=mask(levels, found.rois[rows], found.image[rows]))
        device_type = found.rois.device.type
        # The detections come when the autocast of this call is over.
        precise, lower = not torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)

        def mask_of(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
            counts = [len(b) for b in boxes]
            image = torch.cat([torch.full((n,), i, device=found.rois.device) for i, n in enumerate(counts)])
            label = torch.cat(list(labels))
            with torch.autocast(device_type, lower, enabled=not precise):
                logits = mask(levels, torch.cat(list(boxes)), image)  # [D, C, m, m]
            own = logits[torch.arange(len(label), device=label.device), label]
            return list(own.float().sigmoid().split(counts))

        return replace(found, mask_of=mask_of)


def _fine_level_first(rois: Tensor, image: Tensor, matches: Matches | None) -> tuple[Tensor, Tensor, Matches | None]:
    """The same RoIs in the order of their pyramid levels, in which they are pooled fastest."""
    order = roi_levels(rois, 32).argsort(stable=True)  # of any number of levels
    if matches is not None:
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        matches = replace(matches, prior=place[matches.prior])
    return rois[order], image[order], matches
