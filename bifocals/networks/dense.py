"""Dense detectors: backbone, neck, towers and named predictors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bifocals.structures import DenseOutput, Target, make_points

from .tower import Tower

Network = TypeVar("Network", bound=nn.Module)


class DenseHead(nn.Module):
    """Two towers and any number of named predictors over them.

    share_tower: all predictors read one pair of towers (DATE); else each has a pair of its own (its Table 9). The
    levels' scales are one set, shared by all predictors, whatever they do with them; with `scales` off they are 1 and
    not learned, as in the first RetinaNets. groups: of the towers' norms; None leaves the norms out. deformable: the
    towers end with a deformable convolution.
    predictors: modules that take (cls levels, box levels, scales, priors) and give a `DenseOutput`, by output name.
    """

    def __init__(
        self,
        predictors: Mapping[str, nn.Module],
        strides: Sequence[int],
        channels: int = 256,
        share_tower: bool = True,
        depth: int = 4,
        tower_bias: bool = False,
        groups: int | None = 32,
        scales: bool = True,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.share_tower = share_tower
        self.predictors = nn.ModuleDict(predictors)
        names = ("shared",) if share_tower else tuple(predictors)
        made = (channels, depth, groups, tower_bias, deformable)
        self.cls_towers = nn.ModuleDict({n: Tower(*made) for n in names})
        self.box_towers = nn.ModuleDict({n: Tower(*made) for n in names})
        ones = torch.ones(len(self.strides))
        if scales:
            self.scales: Tensor = nn.Parameter(ones)
        else:
            self.register_buffer("scales", ones, persistent=False)

    def forward(self, levels: list[Tensor]) -> dict[str, DenseOutput]:
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        priors = make_points(sizes, self.strides, device=levels[0].device)
        features = {n: (self.cls_towers[n](levels), self.box_towers[n](levels)) for n in self.cls_towers}
        outputs = {}
        for name, predictor in self.predictors.items():
            cls_levels, box_levels = features["shared" if self.share_tower else name]
            outputs[name] = predictor(cls_levels, box_levels, self.scales, priors)
        return outputs


class DenseDetector(nn.Module):
    """images [B, 3, H, W], RGB 0..255, H and W multiples of `size_divisor` -> a `DenseOutput` for each predictor.

    hook: a part between pyramid and towers, levels -> levels (MAL's depression), or None.
    """

    size_divisor = 32

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: DenseHead, hook: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.hook = hook
        self.head = head

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.head.predictors)

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> dict[str, DenseOutput]:
        """The targets are not looked at: they are for networks that need them in training."""
        levels = self.neck(self.backbone(images)[1:])
        return self.head(levels if self.hook is None else self.hook(levels))


def prune(network: Network, *outputs: str) -> Network:
    """A copy of the network with only the named outputs, and only what they need.

    What the other outputs shared stays as it was, so the remaining outputs are bit-equal. A network of another kind
    has a method `pruned` of its own for it.
    """
    own = getattr(network, "pruned", None)
    if own is not None:
        return own(*outputs)
    if not isinstance(network, DenseDetector):
        raise TypeError(f"prune expected a DenseDetector or a network with a method pruned, got "
                        f"{type(network).__name__}.")
    unknown = sorted(set(outputs) - set(network.outputs))
    if unknown or not outputs:
        raise ValueError(f"prune expected names of outputs, got {list(outputs)}; the network has "
                         f"{list(network.outputs)}.")
    pruned = copy.deepcopy(network)
    head = pruned.head
    for name in set(network.outputs) - set(outputs):
        del head.predictors[name]
        if not head.share_tower:
            del head.cls_towers[name], head.box_towers[name]
    return pruned
