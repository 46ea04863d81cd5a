"""A tiny data set whose objects are bright cells, a network that sees them, and its evaluation by one of many ranks.

Processes that are spawned import this module by its name, so it does not live in a conftest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from bifocals.data import Annotations, Input, eval_transform
from bifocals.evaluate import Evaluation, evaluate
from bifocals.predict import Postprocess
from bifocals.structures import DenseOutput, Priors

TRANSFORM = eval_transform(Input(short=32, long=64))
POSTPROCESS = {"free": Postprocess(0.05, 1000, 100), "suppressed": Postprocess(0.05, 1000, 100, 0.6)}


class Bright(nn.Module):
    """Two priors for each 8x8 cell: the cell, and the cell a pixel to the right with a smaller logit. Class 0 of 2."""

    outputs = ("free", "suppressed")
    size_divisor = 32

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: Tensor, targets: object = None) -> dict[str, DenseOutput]:
        cells = nn.functional.avg_pool2d(images.float().mean(1, keepdim=True), 8)[:, 0] / 255
        height, width = cells.shape[1:]
        y, x = torch.meshgrid(torch.arange(height) * 8.0, torch.arange(width) * 8.0, indexing="ij")
        first = torch.stack([x, y, x + 8, y + 8], dim=-1).reshape(1, -1, 4)
        boxes = torch.cat([first, first + torch.tensor([1.0, 0, 1, 0])], dim=1).expand(len(images), -1, -1)
        bright = self.gain * (cells.flatten(1) - 0.5)
        both = torch.cat([bright, bright - 0.5], dim=1)
        logits = torch.stack([both, torch.full_like(both, -9.0)], dim=2)
        number = both.shape[1]
        output = DenseOutput(logits, boxes, boxes, Priors(boxes[0, :, :2], torch.full((number,), 8.0), (number,)))
        return {"free": output, "suppressed": output}


def draw_set(folder: Path, num_images: int, seed: int = 0) -> Annotations:
    """Black pictures of 64x32 with 2 to 6 bright cells each; four of five are annotated."""
    rng = np.random.default_rng(seed)
    boxes, counts = [], []
    for i in range(num_images):
        pixels = np.zeros((32, 64, 3), dtype=np.uint8)
        cells = rng.choice(32, rng.integers(2, 7), replace=False)
        kept = 0
        for cell in cells:
            y, x = divmod(int(cell), 8)
            pixels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = rng.integers(90, 256)
            if rng.random() < 0.8:
                boxes.append([8 * x, 8 * y, 8 * x + 8, 8 * y + 8])
                kept += 1
        counts.append(kept)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    number = len(boxes)
    return Annotations(
        root=folder, files=[f"{i}.png" for i in range(num_images)],  # type: ignore[arg-type]
        image_ids=np.arange(num_images)[::-1] * 7 + 100,  # not in the order of the ids
        sizes_hw=np.tile(np.array([[32, 64]], dtype=np.int32), (num_images, 1)),
        offsets=np.concatenate([[0], np.cumsum(counts)]), boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.zeros(number, dtype=np.int64), crowd=np.zeros(number, dtype=bool), area=np.full(number, 64.0),
        classes=("bright", "never"), category_ids=(1, 2),
    )


def run(annotations: Annotations, output: str = "free", **settings: object) -> Evaluation:
    return evaluate(Bright(), annotations, transform=TRANSFORM, postprocess=POSTPROCESS, output=output,
                    **settings)  # type: ignore[arg-type]


def run_as_rank(rank: int, world: int, folder: str, numbers: tuple[int, ...]) -> None:
    """One process of distributed evaluations of sets of these many images; every rank writes what it was given."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for number in numbers:
        result = run(draw_set_again(folder, number), batch_size=1, trust=True)
        assert result.with_nms is not None and result.trust is not None
        found = {i: (d.boxes, d.scores, d.labels) for i, d in result.detections.items()}
        record = {"stats": result.stats, "with": result.with_nms.stats, "rate": result.duplicate_rate, "found": found,
                  "trust": result.trust.to_json()}
        torch.save(record, f"{folder}/rank{rank}_{number}.pt")
    dist.destroy_process_group()


def draw_set_again(folder: str, num_images: int) -> Annotations:
    """Ranks draw in turns or at once: each process writes to a folder of its own."""
    scenes = Path(folder) / f"{num_images}_{dist.get_rank() if dist.is_initialized() else 'one'}"
    scenes.mkdir(exist_ok=True)
    return draw_set(scenes, num_images)
