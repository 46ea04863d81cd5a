"""Libra's pyramid: numbers by hand, identity at its zero start, the count of its parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bifocals.networks import BalancedPyramid, NonLocal
from bifocals.networks.balanced_pyramid import resized


def test_parameters():
    assert sum(p.numel() for p in BalancedPyramid().parameters()) == 263_168


def levels(channels: int = 8, batch: int = 2) -> list[torch.Tensor]:
    # 10 rows are no multiple of 3: P6 of a picture whose P5 is odd.
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, s, s + 4, generator=draw) for s in (40, 20, 10, 5, 3)]


def test_it_starts_by_adding_the_mean_alone():
    pyramid = BalancedPyramid(8)
    x = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(pyramid.refine(x), x, rtol=0, atol=0)
    changed = BalancedPyramid(8, start="xavier").refine(x)
    assert (changed - x).abs().max() > 0.01
    maps = levels()
    size = maps[2].shape[-2:]
    mean = sum(F.adaptive_max_pool2d(m, size) for m in maps[:3]) / 5
    mean = mean + sum(F.interpolate(m, size=size, mode="nearest") for m in maps[3:]) / 5
    found = pyramid(maps)
    torch.testing.assert_close(found[2], maps[2] + mean)
    torch.testing.assert_close(found[0], maps[0] + F.interpolate(mean, size=maps[0].shape[-2:], mode="nearest"))
    torch.testing.assert_close(found[4], maps[4] + F.adaptive_max_pool2d(mean, maps[4].shape[-2:]))


def test_by_hand():
    # One pixel a level, all convolutions the identity: the mean m is refined to m + m, whatever the weights of one key.
    pyramid = BalancedPyramid(1, refine_level=1)
    with torch.no_grad():
        for conv in (pyramid.refine.g, pyramid.refine.theta, pyramid.refine.phi, pyramid.refine.out):
            conv.weight.fill_(1.0)
    fine = torch.tensor([[1.0, 2], [3, 6]])[None, None]
    found = pyramid([fine, torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0)])
    assert found[1].item() == 6.0  # 2 (6 + 0 + 3) / 3
    assert found[0].flatten().tolist() == [7.0, 8.0, 9.0, 12.0]
    assert found[2].item() == 9.0


def test_attention_is_not_scaled():
    # 64 channels of 1/4 at two pixels, 0 at one: products of 4 (without the square root of 64) and of 0.
    module = NonLocal(64, "xavier")
    with torch.no_grad():
        for conv in (module.g, module.theta, module.phi, module.out):
            conv.weight.copy_(torch.eye(64)[:, :, None, None])
    x = torch.zeros(1, 64, 1, 2)
    x[..., 0] = 0.25
    weight = torch.tensor([4.0, 0.0]).softmax(0)[0]
    torch.testing.assert_close(module(x)[0, 0, 0], torch.stack([0.25 + 0.25 * weight, 0.125 * torch.ones(())]))


def test_a_batch_of_two_is_two_of_one():
    pyramid = BalancedPyramid(8, start="xavier")
    maps = levels()
    together, alone = pyramid(maps), pyramid([m[1:] for m in maps])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:], b)
    sum(m.sum() for m in together).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="NonLocal expected start of .*, got 'one'"):
        BalancedPyramid(8, start="one")
    with pytest.raises(ValueError, match="a refine_level below the 2 levels of its pyramid, got 2"):
        BalancedPyramid(8)(levels()[:2])


@pytest.mark.parametrize(("size_hw", "smaller_hw"), [((10, 14), (3, 4)), ((25, 38), (13, 19)), ((9, 9), (5, 9))])
def test_shrinking_is_torch_s_adaptive_max_pooling(size_hw: tuple[int, int], smaller_hw: tuple[int, int]):
    x = torch.randn(2, 3, *size_hw)
    torch.testing.assert_close(resized(x, smaller_hw), F.adaptive_max_pool2d(x, smaller_hw), rtol=0, atol=0)
