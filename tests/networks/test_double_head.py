"""Double-Head: its parameters, the enlarged RoI, the modes of its norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bifocals.networks import DoubleHead, RoIAlign

ROIS = torch.tensor([[4.0, 4, 40, 30], [10, 20, 50, 60], [0, 0, 100, 100], [30, 30, 33, 90]])
IMAGE = torch.tensor([0, 1, 1, 0])


def levels(channels: int = 8) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, s, s, generator=draw) for s in (32, 16, 8, 4, 2)]


def small(**options) -> DoubleHead:
    torch.manual_seed(0)
    return DoubleHead(3, 8, width=16, depth=1, **options)


def test_parameters():
    head = DoubleHead(20)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in head.named_children()}
    assert count == {"pool": 0, "box_pool": 0, "fc1": 12_846_080, "fc2": 1_049_600, "cls": 21_525,
                     "blocks": 1_118_720 + 4 * 1_117_184, "box": 82_000}
    assert sum(count.values()) == 19_586_661


def test_the_box_comes_from_the_enlarged_roi_at_the_level_of_the_roi_itself():
    # 200 pixels belong to the second level (112 to 224), 260 to the third: all that level has is 7.
    maps = [torch.full((1, 1, 512 // s, 512 // s), float(value)) for value, s in ((1, 4), (2, 8), (7, 16), (9, 32))]
    roi = torch.tensor([[100.0, 100, 300, 300]])
    zero = torch.zeros(1, dtype=torch.int64)
    assert float(RoIAlign().enlarged(1.3)(maps, roi, zero).mean()) == pytest.approx(2)
    # A slope of 1 a pixel over x: the enlarged RoI has the same center and 1.3 times the spread of its cells.
    slope = torch.arange(64.0)[None, None, None].expand(1, 1, 64, 64) * 4 + 2
    roi = torch.tensor([[60.0, 60, 100, 100]])
    plain, large = (RoIAlign(scale=s)([slope], roi, zero)[0, 0, 0] for s in (1.0, 1.3))
    assert float(large.mean()) == pytest.approx(80, abs=1e-3)
    torch.testing.assert_close(large - large.mean(), 1.3 * (plain - plain.mean()), rtol=1e-4, atol=1e-4)


def test_each_half_reads_its_own_roi():
    head = small().eval()
    with torch.no_grad():
        logits, deltas = head(levels(), ROIS, IMAGE)
        assert logits.shape == (4, 4) and deltas.shape == (4, 3, 4)
        head.box_pool = head.pool
        same_logits, other_deltas = head(levels(), ROIS, IMAGE)
    assert torch.equal(logits, same_logits) and not torch.allclose(deltas, other_deltas)


def test_norms_learn_from_the_batch_and_rest_in_evaluation():
    head = small()
    norms = [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6 and all(p.requires_grad for m in norms for p in m.parameters())
    before = norms[0].running_mean.clone()
    logits, deltas = head(levels(), ROIS, IMAGE)
    assert not torch.equal(before, norms[0].running_mean)
    alone = head(levels(), ROIS[:1], IMAGE[:1])[1]
    assert not torch.allclose(alone, deltas[:1], rtol=1e-3)  # other RoIs, other statistics
    (logits.sum() + deltas.sum()).backward()
    assert all(p.grad is not None for p in head.parameters())
    head.eval()
    before = norms[0].running_mean.clone()
    with torch.no_grad():
        together, alone = head(levels(), ROIS, IMAGE), head(levels(), ROIS[:1], IMAGE[:1])
    torch.testing.assert_close(together[1][:1], alone[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(before, norms[0].running_mean)


def test_no_roi_at_all():
    for head in (small().eval(), small().train()):
        logits, deltas = head(levels(), ROIS[:0], IMAGE[:0])
        assert logits.shape == (0, 4) and deltas.shape == (0, 3, 4)


def test_synchronized_norms():
    head = small(norm="sync")
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in head.modules()) == 6
    assert head.state_dict().keys() == small().state_dict().keys()


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="norm of .*, got 'layer'"):
        small(norm="layer")
    with pytest.raises(ValueError, match="got 0, 1.3 and 16"):
        DoubleHead(0, 8, width=16)
