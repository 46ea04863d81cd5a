"""HCRAL's parts beside what they extend, in one run: class losses beside focal loss, EATSS beside ATSS.

    python benchmarks/hcral.py                          # CPU: 8 images of 800x1280, 80 classes, forward and backward
    python benchmarks/hcral.py --batch 1 --rounds 3     # small
    python benchmarks/hcral.py --part assign --boxes 30 --rounds 30

Each round takes all in turn; ratios are what counts, of the least times of losses and of the median times of
assigners; the times depend on the machine. The matched view is built anew in each round, so HCRA-C pays for the IoU of
every predicted box with every object. EATSS is measured beside ATSS, and both beside the plain way, a loop over images
and levels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from atss import plain
from torch import Tensor

from bifocals.assign import ATSS, EATSS
from bifocals.losses import GHM, HCRAC, Focal, QualityFocal, Varifocal
from bifocals.structures import (
    Anchors,
    DenseOutput,
    Loss,
    Matched,
    Matches,
    Target,
    boxes_from_distances,
    make_points,
)

STRIDES = (8, 16, 32, 64, 128)


def draw_targets(num_images: int, num_boxes: int, num_classes: int, hw: tuple[int, int], device: str) -> list[Target]:
    """Boxes of 16 to 300 pixels, log-uniform, anywhere in the image."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([hw[1], hw[0]])
    targets = []
    for _ in range(num_images):
        side = 16 * torch.exp(torch.rand(num_boxes, 2, generator=draw) * 2.93)
        low = torch.rand(num_boxes, 2, generator=draw) * (size - side).clamp(min=0)
        boxes = torch.cat([low, torch.minimum(low + side, size)], dim=1)
        labels = torch.randint(num_classes, (num_boxes,), generator=draw)
        targets.append(Target(boxes, labels, torch.zeros(num_boxes, dtype=torch.bool), hw, hw).to(device))
    return targets


def draw_view(
    batch: int, hw: tuple[int, int], num_boxes: int, num_classes: int, ignored: float, spread: float, device: str
) -> Callable[[], Matched]:
    """A maker of matched views with leaf logits and boxes; up to ten points inside of each object answer for it.

    ignored: part of the priors that do not count. spread: standard deviation of the logits around -4.6, where a fresh
    network starts.
    """
    draw = torch.Generator(device).manual_seed(1)
    sizes = [(-(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES]
    priors = make_points(sizes, STRIDES, device=device)
    shape = (batch, len(priors))
    logits = torch.randn(*shape, num_classes, generator=draw, device=device) * spread - 4.6
    sides = torch.rand(*shape, 4, generator=draw, device=device) * 4 * priors.strides[:, None] + 1
    boxes = boxes_from_distances(priors.points, sides)
    targets = draw_targets(batch, num_boxes, num_classes, hw, device)
    pairs = []
    for image, target in enumerate(targets):
        low, high = target.boxes[:, None, :2], target.boxes[:, None, 2:]
        inside = ((priors.points > low) & (priors.points < high)).all(-1)  # [G, P]
        for gt, mine in enumerate(inside):
            prior = torch.nonzero(mine)[:10, 0]
            pairs.append(torch.stack([torch.full_like(prior, image), prior, torch.full_like(prior, gt)]))
    image, prior, gt = torch.cat(pairs, dim=1)
    ignore = torch.rand(shape, generator=draw, device=device) < ignored if ignored else None

    def make() -> Matched:
        output = DenseOutput(logits.requires_grad_(), sides, boxes.requires_grad_(), priors)
        return Matched(output, targets, Matches(image, prior, gt, ignore))

    return make


def times_of(
    works: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str,
    now: Callable[[], float] = time.perf_counter,
    choose: Callable[[Sequence[float]], float] = min,
) -> dict[str, float]:
    """Seconds of each, the least unless `choose` says otherwise, all taken in turn after one round of warm-up.

    Every second round runs backward: what comes before leaves its traces in the caches.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in list(works.items())[:: -1 if turn % 2 else 1]:
            if device == "cuda":
                torch.cuda.synchronize()
            start = now()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(now() - start)
    return {name: choose(t) for name, t in times.items()}


def measure_losses(
    make: Callable[[], Matched], rounds: int, device: str, now: Callable[[], float]
) -> dict[str, float]:
    losses: dict[str, Loss] = {"focal": Focal(), "qfl": QualityFocal(), "vfl": Varifocal(), "ghm": GHM(),
                               "hcra_c": HCRAC()}

    def run(loss: Loss) -> Callable[[], None]:
        def forward_and_backward() -> None:
            matched = make()
            total: Tensor = loss(matched)
            torch.autograd.grad(total, matched.output.logits)

        return forward_and_backward

    return times_of({name: run(loss) for name, loss in losses.items()}, rounds, device, now)


def measure_assigners(
    targets: list[Target], hw: tuple[int, int], rounds: int, device: str, now: Callable[[], float]
) -> dict[str, object]:
    sizes = [(-(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES]
    priors = Anchors(8.0, 1, (1.0,)).at(make_points(sizes, STRIDES, device=device))
    works = {"plain": lambda: plain(priors, targets), "atss": lambda: ATSS().batch(priors, targets),
             "eatss": lambda: EATSS().batch(priors, targets)}
    seconds = times_of(works, rounds, device, now, statistics.median)
    return {
        "anchors": len(priors), "images": len(targets), "objects": sum(len(t.labels) for t in targets),
        "pairs": {name: len(works[name]()) for name in ("atss", "eatss")},
        "milliseconds": {name: round(1000 * s, 2) for name, s in seconds.items()},
        "eatss_by_atss": round(seconds["eatss"] / seconds["atss"], 2),
        "plain_by_atss": round(seconds["plain"] / seconds["atss"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("losses", "assign"), default="losses")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hw", type=int, nargs=2, default=(800, 1280))
    parser.add_argument("--boxes", type=int, default=7, help="objects of an image; COCO has 7")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--ignored", type=float, default=0.0, help="part of the priors that are ignored")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of the logits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: of this process, for a busy "
                        "machine, with --threads 1")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    hw, device = tuple(arguments.hw), arguments.device
    now = time.perf_counter if arguments.clock == "wall" else time.process_time
    about = {"torch": torch.__version__, "device": device, "threads": arguments.threads, "clock": arguments.clock}
    if arguments.part == "assign":
        targets = draw_targets(arguments.batch, arguments.boxes, arguments.classes, hw, device)
        print(json.dumps(about | measure_assigners(targets, hw, arguments.rounds, device, now), indent=1))
        return
    make = draw_view(arguments.batch, hw, arguments.boxes, arguments.classes, arguments.ignored, arguments.spread,
                     device)
    shape = tuple(make().output.logits.shape)
    seconds = measure_losses(make, arguments.rounds, device, now)
    print(json.dumps(about | {
        "logits": shape,
        "milliseconds": {name: round(1000 * s, 1) for name, s in seconds.items()},
        "times_focal": {name: round(s / seconds["focal"], 2) for name, s in seconds.items()},
    }, indent=1))


if __name__ == "__main__":
    main()
