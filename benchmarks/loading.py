"""Images a second that one worker delivers: our training pipeline beside torchvision's reference pipeline.

    python benchmarks/loading.py            # $BIFOCALS_SHARED/data/bccd where it is there, else drawn scenes

Both read the same files, mirror every second image and resize to the same size. The reference does as torchvision's
references/detection: Pillow decodes and resizes, transforms.v2 mirrors and makes float tensors, batches are tuples.
Ours gives uint8 batches, already padded. One thread each; rounds alternate, so that a busy machine disturbs both.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from bifocals.data import Annotations, Data, Input, open_split, save_scenes, train_stream, train_transform

BATCH = 8


class Reference(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """torchvision's detection preset `hflip` with Pillow as backend."""

    def __init__(self, annotations: Annotations, short: int, long: int) -> None:
        self.annotations = annotations
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomShortestSize([short], long),
                v2.PILToTensor(),
                v2.ToDtype(torch.float, scale=True),
                v2.SanitizeBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        image = Image.open(self.annotations.image_path(index)).convert("RGB")
        boxes, labels, _ = self.annotations.objects(index)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.as_tensor(boxes, dtype=torch.float32), format="XYXY", canvas_size=(image.height, image.width)
            ),
            "labels": torch.as_tensor(labels),
            "image_id": index,
        }
        return self.transform(image, target)


def _tuples(samples: list[tuple[torch.Tensor, dict[str, Any]]]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def reference_batches(annotations: Annotations, short: int, long: int, images: int, workers: int) -> Iterable[Any]:
    order = torch.randperm(len(annotations)).repeat(-(-images // len(annotations)))[:images]
    batches = [chunk.tolist() for chunk in order.split(BATCH)]
    return DataLoader(
        Reference(annotations, short, long), batch_sampler=batches, num_workers=workers, collate_fn=_tuples
    )


def our_batches(annotations: Annotations, short: int, long: int, images: int, workers: int) -> Iterable[Any]:
    return train_stream(
        annotations,
        train_transform(Input(short, long)),
        batch_size=BATCH,
        seed=0,
        first_step=0,
        total_steps=images // BATCH,
        workers=workers,
    )


def images_per_second(make: Callable[[], Iterable[Any]], images: int, workers: int) -> float:
    """Of one pass. In this process CPU time counts; with a worker the wall clock, from the first batch on."""
    if workers == 0:
        start = time.process_time()
        for _ in make():
            pass
        return images / (time.process_time() - start)
    batches = iter(make())
    next(batches)  # the start of the worker is no part of its speed
    start = time.perf_counter()
    for _ in batches:
        pass
    return (images - BATCH) / (time.perf_counter() - start)


def measure(annotations: Annotations, short: int, long: int, images: int = 160, rounds: int = 5) -> dict[str, float]:
    """The best of some alternating rounds: images a second of both, in this process and from one worker."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for workers in (0, 1):
            for name, batches in (("ours", our_batches), ("torchvision", reference_batches)):
                key = f"{name} {'worker' if workers else 'process'}"
                speed = images_per_second(lambda: batches(annotations, short, long, images, workers), images, workers)  # noqa: B023
                found[key] = max(found.get(key, 0.0), speed)
    for kind in ("process", "worker"):
        found[f"ratio {kind}"] = found[f"ours {kind}"] / found[f"torchvision {kind}"]
    return found


def pictures(drawn: Path) -> tuple[str, Annotations]:
    """bccd's training images, or drawn ones of the same size."""
    shared = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "bccd"
    if shared.is_dir():
        return "bccd", open_split(Data(str(shared), on_defect="skip"), "train", log=None)
    save_scenes(drawn, train=96, val=0, hw=(480, 640), objects=(15, 25))
    return "drawn scenes", open_split(Data(str(drawn)), "train", log=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160, help="images of one round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = options.images // BATCH * BATCH
    with tempfile.TemporaryDirectory() as folder:
        name, annotations = pictures(Path(folder))
        height, width = annotations.sizes_hw[0].tolist()
        print(f"{len(annotations)} images of {name}, {width}x{height}, batches of {BATCH}, images/s, best of "
              f"{options.rounds} rounds")  # fmt: skip
        print(f"{'short/long side':>16} {'':>10} {'ours':>8} {'torchvision':>12} {'ratio':>7}   target 1.5")
        for short, long in ((240, 320), (640, 1067), (800, 1333)):
            found = measure(annotations, short, long, images, options.rounds)
            for kind, label in (("worker", "one worker"), ("process", "CPU time")):
                print(f"{f'{short}/{long}':>16} {label:>10} {found[f'ours {kind}']:8.0f} "
                      f"{found[f'torchvision {kind}']:12.0f} {found[f'ratio {kind}']:7.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
