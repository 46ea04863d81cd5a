"""The objective: supervision without computation, as branches over the outputs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bifocals.structures import Target

from .branch import Branch


@dataclass(frozen=True)
class Losses:
    """The losses of a step, each a scalar named `branch/loss`: before and after their weights."""

    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The scalar to go backward from."""
        return torch.stack(list(self.weighted.values())).sum()


class Objective(nn.Module):
    """Runs each branch over its output and collects the losses.

    It is called on the outputs of the network and lives outside of it (and outside DDP): `Losses` are normalized such
    that the gradient averaged over ranks is the gradient of the whole batch.
    """

    def __init__(self, branches: Mapping[str, Branch]) -> None:
        super().__init__()
        if not branches:
            raise ValueError("Objective expected at least one branch, got none.")
        self.branches = nn.ModuleDict(branches)

    def forward(self, outputs: Mapping[str, Any], targets: Sequence[Target]) -> Losses:
        """Losses of a batch. ValueError if a branch reads an output that the network does not have."""
        targets = [t.without_crowd() for t in targets]
        raw: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        device_type = targets[0].boxes.device.type
        # Losses sum over some ten thousand priors: they are computed in float32, whatever the network used.
        with torch.autocast(device_type, enabled=False):
            for name, branch in self.branches.items():
                assert isinstance(branch, Branch)
                source = branch.source or name
                if source not in outputs:
                    raise ValueError(f"Objective branch {name!r} reads output {source!r}, "
                                     f"but the network gives {sorted(outputs)}.")
                losses = branch(outputs[source], targets)
                raw |= {f"{name}/{key}": loss for key, loss in losses.items()}
                weighted |= {f"{name}/{key}": loss for key, loss in branch.weigh(losses).items()}
        return Losses(raw, weighted)

    def observe(self, raw: Mapping[str, Tensor]) -> None:
        """Shows each balancer the raw losses of an optimizer step, once."""
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            branch.observe({key.removeprefix(f"{name}/"): loss.detach() for key, loss in raw.items()
                            if key.startswith(f"{name}/")})

    def set_step(self, step: int, total: int) -> None:
        """Sets the clock of the parts that change with training time."""
        for branch in self.branches.values():
            assert isinstance(branch, Branch)
            branch.set_step(step, total)

    def scheduled(self) -> dict[str, float]:
        """Where the parts that change with training time stand, as `branch/name`."""
        found: dict[str, float] = {}
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            found |= {f"{name}/{key}": value for key, value in branch.scheduled().items()}
        return found

    def drain(self) -> dict[str, list[dict[str, float]]]:
        """The stretches of steps that balancers have summed up since the last call, by branch."""
        found = {}
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            if rows := branch.drain():
                found[name] = rows
        return found
