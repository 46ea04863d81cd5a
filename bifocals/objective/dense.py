"""A dense branch: one output supervised by one assigner and a few losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
    head (3DMF). weight: a factor on the whole branch (DATE's lambda, arXiv:2211.13859, Eq. 1).
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
    ) -> None:
        super().__init__(balance, source, weight)
        if not losses:
            raise ValueError("DenseBranch expected at least one loss, got none.")
        self.assigner = assigner
        self.losses = dict(losses)
        self.filtered = filtered
        # Registered so that a state dict holds them; a module that is not registered would be lost on resume.
        self.stateful = nn.ModuleDict({n: part for n, part in losses.items() if isinstance(part, nn.Module)})

    def match(self, output: DenseOutput, targets: Sequence[Target]) -> Matches:
        """The pairs of a batch, without gradient; all images at once where the assigner can."""
        output = self._seen(output)
        with torch.no_grad():
            if isinstance(self.assigner, BatchAssigner):
                return self.assigner.batch(output.priors, targets, output.detach())
            matches = [self.assigner(output.priors, t, output.prediction(i)) for i, t in enumerate(targets)]
            return Matches.stack(matches, len(output.priors))

    def forward(self, output: DenseOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The raw losses."""
        output = self._seen(output)
        matched = Matched(output, targets, self.match(output, targets))
        return {name: loss(matched) for name, loss in self.losses.items()}

    def _seen(self, output: DenseOutput) -> DenseOutput:
        return output if self.filtered else output.before_filter()

    def parts(self) -> Iterator[object]:
        yield self.assigner
        yield from self.losses.values()
