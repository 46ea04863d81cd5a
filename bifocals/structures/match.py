"""A match is pairs of a prior and an object, not one index a prior.

So it covers one-to-one, one-to-many, bags (a prior in several bags), ignore zones and sampling alike.
Letters: B images, P priors, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass(frozen=True)
class Match:
    """One image: pair m joins prior `prior[m]` with object `gt[m]` (0-based).

    ignore marks priors that give no classification loss; None means that no prior is ignored.
    Every other prior without a pair is background.
    """

    prior: Int64[Tensor, "M"]
    gt: Int64[Tensor, "M"]
    ignore: Bool[Tensor, "P"] | None = None

    @staticmethod
    def empty(device: torch.device | str) -> Match:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return Match(none, none)


@dataclass(frozen=True)
class Matches:
    """A batch of matches, flat: pair m belongs to image `image[m]`."""

    image: Int64[Tensor, "M"]
    prior: Int64[Tensor, "M"]
    gt: Int64[Tensor, "M"]
    ignore: Bool[Tensor, "B P"] | None = None

    def __len__(self) -> int:
        return len(self.prior)

    @staticmethod
    def stack(matches: Sequence[Match], num_priors: int) -> Matches:
        """Flat form of one match for each image."""
        image = torch.cat([torch.full_like(m.prior, i) for i, m in enumerate(matches)])
        ignore = None
        if any(m.ignore is not None for m in matches):
            device = matches[0].prior.device
            nothing = torch.zeros(num_priors, dtype=torch.bool, device=device)
            ignore = torch.stack([nothing if m.ignore is None else m.ignore for m in matches])
        return Matches(image, torch.cat([m.prior for m in matches]), torch.cat([m.gt for m in matches]), ignore)

    def of_image(self, image: int) -> Match:
        """The match of one image of the batch."""
        mine = self.image == image
        return Match(self.prior[mine], self.gt[mine], None if self.ignore is None else self.ignore[image])
