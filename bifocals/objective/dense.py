"""A dense branch: one output supervised by one assigner and a few losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bifocals.structures import (
    Assigner,
    Balancer,
    BatchAssigner,
    DenseOutput,
    Loss,
    Matched,
    Matches,
    Target,
)

from .branch import Branch


class DenseBranch(Branch):
    """Joins an assigner, named losses and a balancer for one `DenseOutput`.

    source: the network output to read; None reads the output named like the branch. Two branches may read one output
    (DeFCN's auxiliary loss). filtered: False makes assigner and losses see the class logits before a filter of the
    head (3DMF). weight: a factor on the whole branch (DATE's lambda, arXiv:2211.13859, Eq. 1). class_agnostic: all
    objects are of class 0, for an output of one class (an RPN). apart: the losses of each image by itself, divided by
    its own counts, and their mean (torchvision's RetinaNet).
    Parts with state are modules and so become part of this module's state dict; the others are plain objects.
    """

    def __init__(
        self,
        assigner: Assigner,
        losses: Mapping[str, Loss],
        balance: Balancer | None = None,
        *,
        source: str | None = None,
        filtered: bool = True,
        weight: float = 1.0,
        class_agnostic: bool = False,
        apart: bool = False,
    ) -> None:
        super().__init__(balance, source, weight)
        if not losses:
            raise ValueError("DenseBranch expected at least one loss, got none.")
        self.assigner = assigner
        self.losses = dict(losses)
        self.filtered = filtered
        self.class_agnostic = class_agnostic
        self.apart = apart
        # Registered so that a state dict holds them; a module that is not registered would be lost on resume.
        self.stateful = nn.ModuleDict({n: part for n, part in losses.items() if isinstance(part, nn.Module)})

    def match(self, output: DenseOutput, targets: Sequence[Target]) -> Matches:
        """The pairs of a batch, without gradient; all images at once where the assigner can."""
        output, targets = self._seen(output), self._objects(targets)
        with torch.no_grad():
            if isinstance(self.assigner, BatchAssigner):
                return self.assigner.batch(output.priors, targets, output.detach())
            matches = [self.assigner(output.priors, t, output.prediction(i)) for i, t in enumerate(targets)]
            return Matches.stack(matches, len(output.priors))

    def forward(self, output: DenseOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The raw losses."""
        output, targets = self._seen(output), self._objects(targets)
        matched = Matched(output, targets, self.match(output, targets))
        if self.apart:
            views = [_of_image(matched, i) for i in range(len(targets))]
            raw = {name: torch.stack([loss(v) for v in views]).mean() for name, loss in self.losses.items()}
        else:
            raw = {name: loss(matched) for name, loss in self.losses.items()}
        self.watch(matched)
        return raw

    def _objects(self, targets: Sequence[Target]) -> Sequence[Target]:
        if not self.class_agnostic:
            return targets
        return [replace(t, labels=torch.zeros_like(t.labels)) for t in targets]

    def _seen(self, output: DenseOutput) -> DenseOutput:
        return output if self.filtered else output.before_filter()

    def parts(self) -> Iterator[object]:
        yield self.assigner
        yield from self.losses.values()


def _of_image(matched: Matched, image: int) -> Matched:
    """The matched view of one image of the batch."""
    output, match, one = matched.output, matched.matches.of_image(image), slice(image, image + 1)
    single = DenseOutput(output.logits[one], output.deltas[one], output.boxes[one], output.priors,
                         None if output.quality is None else output.quality[one])
    return Matched(single, [matched.targets[image]], Matches.stack([match], len(output.priors)))
