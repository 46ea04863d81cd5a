"""BiSeNet: named maps at their strides, auxiliary heads in training alone, any body, attention by hand."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bifocals.networks import (
    AttentionRefinement,
    Backbone,
    BiSeNet,
    ContextPath,
    FeatureFusion,
    build_backbone,
)

BODY = Backbone("resnet18", "pytorch", "none", frozen_stages=-1, norm="train")


def small(**options) -> BiSeNet:
    return BiSeNet(build_backbone(BODY), 5, **{"width": 16, "head_width": 12, "aux_width": 8} | options)


def images(number: int = 2, hw: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.randint(0, 256, (number, 3, *hw), dtype=torch.uint8)


def test_maps_have_their_strides_and_the_auxiliary_ones_belong_to_training():
    network = small()
    trained = network.train()(images())
    assert {n: tuple(x.shape) for n, x in trained.items()} == {
        name: (2, 5, 64 // stride, 96 // stride) for name, stride in BiSeNet.STRIDES.items()}
    shipped = network.eval()(images())
    assert list(shipped) == list(network.outputs) == ["main"]
    assert list(small(aux=False).train()(images())) == ["main"]


@pytest.mark.parametrize("options", [{}, {"spatial_path": False}, {"aux": False}])
def test_every_parameter_learns(options):
    network = small(**options).train()
    sum(x.square().sum() for x in network(images()).values()).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_a_batch_of_two_is_two_of_one():
    network = small()
    network.train()(images(4))  # running statistics that are not 0 and 1
    network.eval()
    batch = images()
    with torch.no_grad():
        together, apart = network(batch)["main"], torch.cat([network(batch[i : i + 1])["main"] for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_without_the_spatial_path_the_head_reads_the_context_path():
    network = small(spatial_path=False).eval()
    assert network.spatial is None
    assert set(network.head) == {"main", "aux16", "aux32"}
    with torch.no_grad():
        at8, _ = network.context(network.backbone(images(1))[1:])
    assert at8.shape == (1, 16, 8, 12)
    assert network.head["main"].conv.conv.in_channels == 16
    assert small().head["main"].conv.conv.in_channels == 32


def test_only_first_convolutions_see_the_channels_of_the_body():
    """What lets a body change its width by slicing input channels: those of C4 and C5, and no others."""
    thin, wide = ContextPath((16, 32), 8).state_dict(), ContextPath((24, 48), 8).state_dict()
    assert {n for n in thin if thin[n].shape != wide[n].shape} == {
        "refine16.conv.conv.weight", "refine32.conv.conv.weight", "whole.conv.weight"}


def test_attention_by_hand():
    """Weights of 1 and an untouched batch norm in evaluation: x times the sigmoid of the mean of x."""
    arm = AttentionRefinement(1, 1).eval()
    fusion = FeatureFusion(2, 1).eval()
    with torch.no_grad():
        arm.conv.conv.weight.zero_()[0, 0, 1, 1] = 1.0
        for module in (arm, fusion):
            module.attention.weight.fill_(1.0)
        fusion.conv.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1))
        x = torch.tensor([[[[1.0, 3.0]]]])
        scale = (1 + 1e-5) ** -0.5  # of a batch norm with variance 1
        seen = x * scale
        weight = torch.sigmoid(seen.mean() * scale)
        torch.testing.assert_close(arm(x), seen * weight)
        both = (x + 2 * x.flip(-1)) * scale  # 7 and 5
        weight = torch.sigmoid(both.mean() * scale)
        torch.testing.assert_close(fusion(x, x.flip(-1)), both + both * weight)


def test_the_average_of_the_image_is_added_to_the_coarsest_features():
    """A change of C5 far from a cell reaches it through the global branch alone; without it, nothing does."""
    path = ContextPath((4, 4), 4).eval()
    c3, c4, c5 = torch.rand(1, 4, 32, 32), torch.rand(1, 4, 16, 16), torch.rand(1, 4, 8, 8)
    moved = c5.clone()
    moved[:, :, 0, 0] += 100
    with torch.no_grad():
        near = [path([c3, c4, x])[0][..., -1, -1] for x in (c5, moved)]
        assert not torch.allclose(*near)
        path.refine32.attention.weight.zero_()  # this attention looks at the whole image too
        path.whole.conv.weight.zero_()
        near = [path([c3, c4, x])[0][..., -1, -1] for x in (c5, moved)]
        torch.testing.assert_close(*near)


def test_a_single_image_cannot_be_trained_on():
    with pytest.raises(ValueError, match="expected at least 2 images at a time in training, got 1"):
        small().train()(images(1))
    assert small().eval()(images(1))["main"].shape == (1, 5, 8, 12)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "timm:resnet18"])
def test_other_bodies(name):
    if name.startswith("timm:") and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    body = build_backbone(Backbone(name, "pytorch", "none", frozen_stages=-1, norm="train"))
    network = BiSeNet(body, 3, width=8, head_width=8).eval()
    assert network.context.refine32.conv.conv.in_channels == body.channels[-1]
    with torch.no_grad():
        assert network(images(1))["main"].shape == (1, 3, 8, 12)


def test_bfloat16_stays_close():
    network = small().eval()
    batch = images()
    with torch.no_grad():
        exact = network(batch)["main"]
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(batch)["main"]
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_pruning_leaves_the_auxiliary_heads_out():
    network = small().eval()
    shipped = network.pruned("main")
    assert not any("aux" in name for name in shipped.state_dict())
    assert any("aux" in name for name in network.state_dict())
    batch = images(1)
    with torch.no_grad():
        assert torch.equal(network(batch)["main"], shipped(batch)["main"])
    with pytest.raises(ValueError, match=r"outputs of \['main'\], got \['aux16'\]"):
        network.pruned("aux16")
