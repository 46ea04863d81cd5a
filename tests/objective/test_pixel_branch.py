"""The branch of pixels: logits are enlarged to the canvas, labels padded, and losses weighed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bifocals.balance import Fixed
from bifocals.losses import OHEM, PixelCE
from bifocals.objective import Objective, PixelBranch
from bifocals.structures import Target


def target(semantic: Tensor | None, image_id: int = 1) -> Target:
    none = torch.zeros(0)
    size = (8, 8) if semantic is None else (semantic.shape[0], semantic.shape[1])
    return Target(none.view(0, 4), none.long(), none.bool(), size, size, image_id, semantic=semantic)


class Seen:
    """A loss that keeps what it was shown."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.logits, self.labels = logits, labels
        return logits.sum()


def test_logits_meet_labels_at_the_size_of_the_canvas():
    seen = Seen()
    logits = torch.randn(2, 3, 4, 6)
    targets = [target(torch.full((20, 32), 2, dtype=torch.uint8)), target(torch.zeros(32, 41, dtype=torch.uint8))]
    PixelBranch({"pixel": seen})(logits, targets)
    assert torch.equal(seen.logits, F.interpolate(logits, (32, 48), mode="bilinear", align_corners=False))
    assert seen.labels.dtype == torch.int64
    expected = torch.full((2, 32, 48), 255)
    expected[0, :20, :32], expected[1, :32, :41] = 2, 0
    assert torch.equal(seen.labels, expected)


def test_bilinear_by_hand():
    """Cells of 2 pixels: centers at 1 and 3 pixels, so pixels see 0, 1/4, 3/4 and all of the way between."""
    seen = Seen()
    PixelBranch({"pixel": seen}, stride=2)(torch.tensor([[[[0.0, 4.0]]]]), [target(torch.zeros(2, 4).byte())])
    assert seen.logits[0, 0].tolist() == [[0, 1, 3, 4]] * 2


def test_padding_teaches_nothing():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    PixelBranch({"pixel": PixelCE()})(logits, [target(torch.ones(8, 8, dtype=torch.uint8))])["pixel"].backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, :, :2, :2] != 0).all())
    assert bool((logits.grad[0, :, 2:] == 0).all()) and bool((logits.grad[0, :, :, 2:] == 0).all())


def test_branches_of_an_objective_are_weighed():
    branch = {"main": PixelBranch({"pixel": PixelCE(), "hard": OHEM()}, Fixed({"hard": 3.0})),
              "aux32": PixelBranch({"pixel": PixelCE()}, stride=16, weight=0.2)}
    outputs = {"main": torch.zeros(1, 4, 2, 2), "aux32": torch.zeros(1, 4, 1, 1)}
    losses = Objective(branch)(outputs, [target(torch.zeros(16, 16, dtype=torch.uint8))])
    log4 = torch.tensor(4.0).log().item()
    assert {n: v.item() for n, v in losses.weighted.items()} == pytest.approx(
        {"main/pixel": log4, "main/hard": 3 * log4, "aux32/pixel": 0.2 * log4})


def test_an_image_in_which_nothing_counts_gives_0():
    found = PixelBranch({"pixel": OHEM()})(torch.randn(1, 3, 2, 2, requires_grad=True),
                                           [target(torch.full((16, 16), 255, dtype=torch.uint8))])
    found["pixel"].backward()
    assert found["pixel"].item() == 0


def test_what_cannot_be_compared_is_refused():
    branch = PixelBranch({"pixel": PixelCE()})
    with pytest.raises(ValueError, match=r"a class for each pixel, got none for images \[7\]"):
        branch(torch.zeros(1, 3, 2, 2), [target(None, 7)])
    with pytest.raises(ValueError, match="labels of at most 16 x 16 pixels, .* got 17 x 8"):
        branch(torch.zeros(1, 3, 2, 2), [target(torch.zeros(17, 8, dtype=torch.uint8))])
    with pytest.raises(ValueError, match="at least one loss"):
        PixelBranch({})
    with pytest.raises(ValueError, match="stride of at least 1 pixel, got 0"):
        PixelBranch({"pixel": PixelCE()}, stride=0)
