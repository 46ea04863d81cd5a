"""Bags and their losses beside RetinaNet's own assignment and losses, on the same predictions and in one process.

    python benchmarks/multiple_anchor.py                        # 4 images x 30 objects x 201,600 anchors x 20 classes
    python benchmarks/multiple_anchor.py --memory mean_max      # peak memory of one way alone, in a process of its own
    python benchmarks/multiple_anchor.py --device cuda --batch 16 --classes 80

Each step assigns, computes the losses and goes backward to logits and deltas. All alternate; the ratio of the medians
is what counts. A share of the predictions are good boxes, as of a network that has learned.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import torch

from bifocals.assign import Bags
from bifocals.balance import Fixed
from bifocals.losses import BagLoss, IoUNegatives, Select, SoftNegatives
from bifocals.objective import DenseBranch, Objective
from bifocals.recipes.retinanet import RetinaHead, retina_branch
from bifocals.structures import Anchors, DeltaCoder, DenseOutput, Target, make_points, pairwise_iou

CODER = DeltaCoder((0.1, 0.1, 0.2, 0.2))
STRIDES = (8, 16, 32, 64, 128)


def draw_targets(batch: int, objects: int, classes: int, hw: tuple[int, int]) -> list[Target]:
    """Boxes of 16 to 400 pixels, log-uniform, anywhere in the image."""
    draw = torch.Generator().manual_seed(0)
    size, targets = torch.tensor([hw[1], hw[0]]), []
    for _ in range(batch):
        side = 16 * torch.exp(torch.rand(objects, 2, generator=draw) * 3.2)
        low = torch.rand(objects, 2, generator=draw) * (size - side).clamp(min=0)
        boxes = torch.cat([low, torch.minimum(low + side, size)], dim=1)
        labels = torch.randint(classes, (objects,), generator=draw)
        targets.append(Target(boxes, labels, torch.zeros(objects, dtype=torch.bool), hw, hw))
    return targets


def draw_output(targets: list[Target], classes: int, hw: tuple[int, int]) -> DenseOutput:
    """Logits around -4; the boxes of anchors that overlap an object by .4 lie near it, the others near their anchor."""
    draw = torch.Generator().manual_seed(1)
    priors = Anchors().at(make_points([(-(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES], STRIDES))
    assert priors.boxes is not None
    shape = (len(targets), len(priors))
    logits = torch.randn(*shape, classes, generator=draw) - 4
    deltas = torch.randn(*shape, 4, generator=draw) * 0.5
    for i, target in enumerate(targets):
        best, gt = pairwise_iou(priors.boxes, target.boxes).max(dim=1)
        near = torch.nonzero(best > 0.4)[:, 0]
        deltas[i, near] += CODER.encode(priors.boxes[near], target.boxes[gt[near]])
    return DenseOutput(logits, deltas, CODER.decode(priors.boxes, deltas), priors)


def bags(select: Select, literal: bool = False) -> DenseBranch:
    negative = IoUNegatives(select=select) if literal else SoftNegatives()
    losses = {"positive": BagLoss(select=select, coder=CODER), "negative": negative}
    return DenseBranch(Bags(), losses, Fixed({"positive": 0.5, "negative": 0.5}))


def step_of(branch: DenseBranch, fixed: DenseOutput, targets: list[Target]) -> Callable[[], float]:
    objective = Objective({"one2many": branch})

    def step() -> float:
        logits, deltas = fixed.logits.clone().requires_grad_(), fixed.deltas.clone().requires_grad_()
        output = DenseOutput(logits, deltas, fixed.boxes, fixed.priors)
        losses = objective({"one2many": output}, targets)
        losses.total.backward()
        return float(losses.total.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--objects", type=int, default=30)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--hw", type=int, nargs=2, default=(800, 1344))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", choices=("retinanet", "topn", "mean_max", "literal"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hw = (args.hw[0], args.hw[1])
    targets = draw_targets(args.batch, args.objects, args.classes, hw)
    output = draw_output(targets, args.classes, hw)
    targets = [t.to(args.device) for t in targets]
    priors = Anchors().at(make_points([(-(-hw[0] // s), -(-hw[1] // s)) for s in STRIDES], STRIDES, device=args.device))
    output = DenseOutput(output.logits.to(args.device), output.deltas.to(args.device), output.boxes.to(args.device),
                         priors)
    branches = {
        "retinanet": retina_branch(RetinaHead(coder=CODER, beta=0.11)),
        "topn": bags("topn"), "mean_max": bags("mean_max"), "literal": bags("topn", literal=True),
    }
    if args.memory:
        branches = {args.memory: branches[args.memory]}
    steps = {name: step_of(branch, output, targets) for name, branch in branches.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in range(args.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(t) for name, t in times.items()}
    found: dict[str, object] = {
        "anchors": len(output.priors), "batch": args.batch, "objects": args.objects, "classes": args.classes,
        "threads": args.threads, "device": args.device, "seconds": seconds,
    }
    if "retinanet" in seconds:
        found["times retinanet's"] = {name: round(s / seconds["retinanet"], 3) for name, s in seconds.items()}
    if args.device == "cpu" and args.memory:
        found["peak of the process GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        found["peak before the first step GiB"] = round(before / 2**20, 2)
    if args.device != "cpu":
        found["peak on the device GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
