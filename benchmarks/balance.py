"""What a balancer adds to a training step, as a part of it: the same steps with and without, in one process.

    python benchmarks/balance.py                                    # CPU: RetinaNet R18, 2 x 256x256
    python benchmarks/balance.py --device cuda --body resnet50 --batch 16 --hw 800 1344 --classes 80

Two numbers for each balancer. "share": the time of its own calls (weigh, watch, observe, and drain each 50 steps),
measured alone with the device waited for, over the time of a step without balancer. "ratio": the median of whole steps
with it over that of steps without, which alternate; its noise is larger than what it measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bifocals.balance import Balance, BalanceName
from bifocals.networks import Backbone, Towers
from bifocals.objective import DenseBranch, Objective
from bifocals.recipes import retinanet
from bifocals.structures import Matched, Target

NAMES: tuple[BalanceName, ...] = ("recipe", "fixed", "alwa1", "alwa2", "dwa", "dtp", "guided")


def draw_targets(batch: int, objects: int, classes: int, hw: tuple[int, int], device: str) -> list[Target]:
    """Boxes of 16 to 200 pixels, log-uniform, anywhere in the image."""
    draw = torch.Generator().manual_seed(0)
    size, targets = torch.tensor([hw[1], hw[0]]), []
    for _ in range(batch):
        side = 16 * torch.exp(torch.rand(objects, 2, generator=draw) * 2.5)
        low = torch.rand(objects, 2, generator=draw) * (size - side).clamp(min=0)
        boxes = torch.cat([low, torch.minimum(low + side, size)], dim=1).to(device)
        labels = torch.randint(classes, (objects,), generator=draw).to(device)
        targets.append(Target(boxes, labels, torch.zeros(objects, dtype=torch.bool, device=device), hw, hw))
    return targets


def timed(call: Callable[[], object], device: str) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--body", default="resnet18")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--hw", type=int, nargs=2, default=(256, 256))
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--calls", type=int, default=400)
    args = parser.parse_args()
    hw, device = (args.hw[0], args.hw[1]), args.device

    def objective_of(name: BalanceName) -> Objective:
        return retinanet(balance=Balance(name, window=20)).objective().to(device)

    torch.manual_seed(0)
    body = Backbone(args.body, "pytorch", "none")
    network = retinanet(backbone=body, towers=Towers()).network(args.classes).to(device).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    images = torch.randint(0, 256, (args.batch, 3, *hw), dtype=torch.uint8, device=device)
    targets = draw_targets(args.batch, args.objects, args.classes, hw, device)
    objectives = {name: objective_of(name) for name in NAMES}

    def step(objective: Objective) -> None:
        losses = objective(network(images, targets), targets)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.observe(losses.raw)

    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for i in range(args.steps + 2):
        for name, objective in objectives.items():
            seconds = timed(partial(step, objective), device)
            if i >= 2:
                times[name].append(seconds)
    plain = statistics.median(times["recipe"])

    with torch.no_grad():
        output = network(images, targets)["one2many"]
    report: dict[str, object] = {"device": device, "step_ms": round(1000 * plain, 2)}
    for name, objective in objectives.items():
        branch = objective.branches["one2many"]
        matched = Matched(output, targets, branch.match(output, targets))
        raw = {n: loss(matched).detach().requires_grad_() for n, loss in branch.losses.items()}

        def calls(branch: DenseBranch = branch, raw: dict[str, Tensor] = raw, matched: Matched = matched) -> None:
            for i in range(args.calls):
                branch.watch(matched)
                branch.weigh(raw)
                branch.observe(raw)
                if i % 50 == 49:
                    branch.drain()
                    branch.scheduled()

        calls()
        own = timed(calls, device) / args.calls
        report[name] = {"own_us": round(1e6 * own, 1), "share_percent": round(100 * own / plain, 3),
                        "ratio": round(statistics.median(times[name]) / plain, 4)}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
