"""The branch of a RoI head: losses of the regions of interest (RoIs) that the network sampled.

Letters: R RoIs of all images of a batch, C classes, M pairs of a RoI and an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bifocals.structures import Balancer, DenseOutput, Loss, Matched, Matches, Priors, RoIOutput, Target

from .branch import Branch

MaskLoss = Callable[[RoIOutput, Sequence[Target]], Tensor]
"""A scalar of the mask logits of the pairs of an output and the masks of the targets."""


class RoIBranch(Branch):
    """Joins named losses and a balancer for one `RoIOutput`; the match came with the output, from the network.

    The losses see the RoIs of the whole batch as the priors of one image (`matched`), so that losses on deltas and on
    boxes are the same objects as for dense heads. mask: a loss of its own kind, named "mask".
    """

    def __init__(
        self,
        losses: Mapping[str, Loss],
        balance: Balancer | None = None,
        *,
        mask: MaskLoss | None = None,
        source: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(balance, source, weight)
        if not losses:
            raise ValueError("RoIBranch expected at least one loss, got none.")
        if "mask" in losses:
            raise ValueError("RoIBranch expected the loss of masks as its argument mask, got a loss named 'mask'.")
        self.losses = dict(losses)
        self.mask = mask  # registered where it is a module
        # Registered so that a state dict holds them; a module that is not registered would be lost on resume.
        self.stateful = nn.ModuleDict({n: part for n, part in losses.items() if isinstance(part, nn.Module)})

    def forward(self, output: RoIOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The raw losses. ValueError for an output without a match: it comes from evaluation."""
        matched = self.matched(output, targets)
        raw = {name: loss(matched) for name, loss in self.losses.items()}
        if self.mask is not None:
            raw["mask"] = self.mask(output, targets)
        self.watch(matched)
        return raw

    def matched(self, output: RoIOutput, targets: Sequence[Target]) -> Matched:
        """The RoIs of the batch as the anchors of one image, which has the objects of all images.

        Class logits have the background as their last class. The deltas of a RoI are those of the class of its object,
        and its box is decoded from them; those of background are of no use.
        """
        if output.matches is None:
            raise ValueError("RoIBranch expected an output with matches, got one without: the network gives them in "
                             "training, when it is called with targets.")
        counts = [len(t.labels) for t in targets]
        first = torch.tensor([sum(counts[:i]) for i in range(len(counts))]).to(output.rois.device)
        gt = first[output.matches.image] + output.matches.gt
        rows = output.matches.prior
        labels = torch.cat([t.labels for t in targets])
        own = labels.new_zeros(len(output.rois))
        own[rows] = labels[gt]
        deltas = output.deltas.gather(1, own[:, None, None].expand(-1, 1, 4))[:, 0]  # [R, 4]
        boxes = output.coder.decode(output.rois, deltas)
        dense = DenseOutput(output.logits[None], deltas[None], boxes[None], Priors.of_boxes(output.rois))
        matches = Matches(torch.zeros_like(rows), rows, gt)
        return Matched(dense, [_joined(targets, labels)], matches, joined=len(targets))

    def parts(self) -> Iterator[object]:
        yield from self.losses.values()
        yield self.mask


def _joined(targets: Sequence[Target], labels: Tensor) -> Target:
    """One image with the objects of all, as large as the largest."""
    size_hw = (max(t.size_hw[0] for t in targets), max(t.size_hw[1] for t in targets))
    crowd = torch.zeros(len(labels), dtype=torch.bool)
    return Target(torch.cat([t.boxes for t in targets]), labels, crowd, size_hw, size_hw)
