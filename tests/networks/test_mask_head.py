"""The mask head: its parameters, its shape, no RoI at all."""

from __future__ import annotations

import pytest
import torch

from bifocals.networks import MaskHead


def test_parameters():
    assert sum(p.numel() for p in MaskHead(80).parameters()) == 2_643_280


def test_shapes_and_gradient():
    head = MaskHead(3, 8, width=8, depth=2)
    levels = [torch.randn(2, 8, s, s) for s in (32, 16, 8, 4, 2)]
    rois, image = torch.tensor([[4.0, 4, 40, 30], [10, 20, 50, 60]]), torch.tensor([0, 1])
    logits = head(levels, rois, image)
    assert logits.shape == (2, 3, 28, 28)
    torch.testing.assert_close(head(levels, rois[1:], image[1:]), logits[1:])
    # Without any object the head still takes part in the graph: DDP waits for all parameters.
    none = head(levels, rois[:0], image[:0])
    assert none.shape == (0, 3, 28, 28)
    none.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="MaskHead expected at least one class, got 0"):
        MaskHead(0)
