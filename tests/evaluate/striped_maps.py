"""Pictures whose class is their brightness, a network that sees it, and its evaluation by one of many ranks.

Processes that are spawned import this module by its name, so it does not live in a conftest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as v2

from bifocals.evaluate import PixelEvaluation, evaluate_maps
from bifocals.predict import PixelPostprocess
from bifocals.structures import Target

SIZE_HW = (48, 64)
LEVELS = (0, 120, 240)


@dataclass(frozen=True)
class Stripes:
    """Pictures of vertical stripes 8 pixels wide of three classes; a share of the pixels does not count.

    swapped: the labels say 1 where the picture shows 0, in each picture in the left quarter.
    """

    number: int = 5
    classes: tuple[str, ...] = ("dark", "gray", "bright", "never")
    void: bool = True

    def __len__(self) -> int:
        return self.number

    def source(self, index: int) -> tuple[Tensor, Target]:
        generator = torch.Generator().manual_seed(index)
        stripes = torch.randint(0, 3, (8,), generator=generator).repeat_interleave(8).expand(SIZE_HW)
        image = torch.tensor(LEVELS)[stripes].to(torch.uint8).expand(3, *SIZE_HW).contiguous()
        semantic = stripes.to(torch.uint8).clone()
        semantic[:, :16][semantic[:, :16] == 0] = 1  # what nobody can see: errors that are known
        if self.void:
            semantic[: 4 + index] = 255
        none = torch.zeros(0)
        return image, Target(none.view(0, 4), none.long(), none.bool(), SIZE_HW, SIZE_HW, 100 - index,
                             semantic=semantic)


class Seeing(nn.Module):
    """Class logits of cells of 8x8 pixels: how near their brightness is to each level; the fourth class never wins."""

    outputs = ("main",)
    size_divisor = 32

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, images: Tensor, targets: object = None) -> dict[str, Tensor]:
        cells = F.avg_pool2d(images.float().mean(1, keepdim=True), 8)
        logits = -(cells - torch.tensor(LEVELS).view(1, 3, 1, 1)).abs() * self.gain
        return {"main": torch.cat([logits, torch.full_like(cells, -99)], dim=1)}


def untouched(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    return image, target


def enlarged(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    size_hw = (96, 128)
    return v2.resize(image, list(size_hw), antialias=True), replace(target, size_hw=size_hw)


def narrowed(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """What no transform of evaluation may do: labels of another size than the picture on disk."""
    assert target.semantic is not None
    return image, replace(target, semantic=target.semantic[:, ::2])


def run(maps: Stripes, **settings: object) -> PixelEvaluation:
    return evaluate_maps(Seeing(), maps, **{  # type: ignore[arg-type]
        "transform": untouched, "postprocess": {"main": PixelPostprocess()}, "output": "main"} | settings)


def run_as_rank(rank: int, world: int, folder: str, numbers: tuple[int, ...]) -> None:
    """One process of distributed evaluations of sets of these many images; every rank writes what it was given."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for number in numbers:
        result = run(Stripes(number))
        assert result.boundary is not None
        record = {"counts": result.confusion.counts, "boundary": result.boundary, "images": result.num_images}
        torch.save(record, f"{folder}/rank{rank}_{number}.pt")
    dist.destroy_process_group()
