"""Deformable convolution: each tap of the kernel reads where an offset says (arXiv:1703.06211, arXiv:1811.11168).

Letters: B images, C channels, T taps of the kernel (9 for 3x3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformConv2d(nn.Conv2d):
    """A convolution whose taps are moved from outside: weights and settings of `nn.Conv2d`, one offset group.

    offsets: for each tap (dy, dx) in pixels of the map, taps row by row. mask: what each tap's value is multiplied
    with. Both have the size of the output. It is computed in the precision of the weights, under autocast
    too: torchvision has no other on the CPU.
    """

    def forward(  # type: ignore[override]  # the taps' places are an input
        self, maps: Float[Tensor, "B C H W"], offsets: Float[Tensor, "B 2*T h w"],
        mask: Float[Tensor, "B T h w"] | None = None,
    ) -> Float[Tensor, "B D h w"]:
        precision = self.weight.dtype
        moved: Tensor = deform_conv2d(
            maps.to(precision), offsets.to(precision), self.weight, self.bias, self.stride, self.padding, self.dilation,
            None if mask is None else mask.to(precision),
        )
        return moved.to(maps.dtype)


class ModulatedConv2d(nn.Module):
    """DCNv2 (arXiv:1811.11168): a convolution that predicts offsets and a mask for its own taps.

    It takes the place of a plain convolution and keeps its weight. The convolution that predicts starts at zero, so at
    first the taps are where they were, each times sigmoid(0): as in the release, the output is half the plain one's.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        assert isinstance(plain.padding, tuple)
        kernel, stride, padding = _pair(plain.kernel_size), _pair(plain.stride), _pair(plain.padding)
        dilation, channels = _pair(plain.dilation), plain.in_channels
        self.conv = DeformConv2d(channels, plain.out_channels, kernel, stride, padding, dilation, plain.groups,
                                 plain.bias is not None)
        self.conv.weight, self.conv.bias = plain.weight, plain.bias
        self.offset = nn.Conv2d(channels, 3 * kernel[0] * kernel[1], kernel, stride, padding, dilation)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        predicted = self.offset(maps)
        taps = predicted.shape[1] // 3
        moved: Tensor = self.conv(maps, predicted[:, : 2 * taps], predicted[:, 2 * taps :].sigmoid())
        return moved


def make_deformable(module: nn.Module) -> int:
    """Puts a `ModulatedConv2d` in the place of every 3x3 convolution inside; how many there were."""
    found = [(parent, name, child) for parent, name, child in _children(module) if child.kernel_size == (3, 3)]
    for parent, name, child in found:
        setattr(parent, name, ModulatedConv2d(child))
    return len(found)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _children(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                yield parent, name, child


def renamed_for(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a plain module by the names that the deformable one has for them."""
    prefixes = {f"{name}.": f"{name}.conv." for name, part in module.named_modules()
                if isinstance(part, ModulatedConv2d)}
    renamed = {}
    for key, value in state.items():
        prefix, _, last = key.rpartition(".")
        renamed[prefixes.get(f"{prefix}.", f"{prefix}.") + last if prefix else last] = value
    return renamed


def offset_names(module: nn.Module) -> set[str]:
    """Names of the tensors that predict offsets, which weights of a plain module do not have."""
    return {f"{name}.offset.{key}" for name, part in module.named_modules() if isinstance(part, ModulatedConv2d)
            for key in part.offset.state_dict()}


def is_deformable(module: nn.Module) -> bool:
    """Whether a deformable convolution is inside."""
    return any(isinstance(part, DeformConv2d) for part in module.modules())

