"""One-to-one assignment beside the plain way: the full cost or quality matrix of an image, then SciPy on all of it.

    python benchmarks/assignment.py               # 8 images, 100 boxes each, 21,330 points, 80 classes

Both sides see the same predictions, alternate in one process and must name pairs of the same total; the ratio of the
medians is what counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from step import alternate, draw_targets
from torchvision.ops import box_iou, generalized_box_iou

from bifocals.assign import POTO, MinCost
from bifocals.losses import Focal
from bifocals.objective import DenseBranch
from bifocals.structures import Assigner, DenseOutput, Matches, Target, boxes_from_distances, make_points, to_cxcywh

SIZES = [(100, 160), (50, 80), (25, 40), (13, 20), (7, 10)]
STRIDES = (8, 16, 32, 64, 128)
HW = (800, 1280)


def predictions(num_images: int, num_classes: int, targets: list[Target], device: str) -> DenseOutput:
    """A detector half trained: near an object the boxes and its class are right up to noise."""
    draw = torch.Generator().manual_seed(1)
    priors = make_points(SIZES, STRIDES)
    logits = torch.randn(num_images, len(priors), num_classes, generator=draw) - 4
    sides = torch.rand(num_images, len(priors), 4, generator=draw) * 4 * priors.strides[:, None]
    for i, target in enumerate(targets):
        x, y = priors.points[:, None].unbind(-1)
        x1, y1, x2, y2 = target.boxes.cpu().unbind(-1)
        distances = torch.stack([x - x1, y - y1, x2 - x, y2 - y], dim=-1)  # [P, G, 4]
        inside, gt = distances.amin(dim=2).max(dim=1)
        near = torch.nonzero(inside > 0)[:, 0]
        noise = torch.exp(torch.randn(len(near), 4, generator=draw) * 0.3)
        sides[i, near] = distances[near, gt[near]] * noise
        logits[i, near, target.labels.cpu()[gt[near]]] += 3 * torch.rand(len(near), generator=draw)
    boxes = boxes_from_distances(priors.points, sides)
    return DenseOutput(logits, sides, boxes, priors)


def plain_poto(output: DenseOutput, targets: list[Target], alpha: float = 0.8, radius: float = 1.5) -> list[tuple]:
    pairs = []
    x, y = output.priors.points[:, None].unbind(-1)
    reach = radius * output.priors.strides[:, None]
    for logits, boxes, target in zip(output.logits, output.boxes, targets, strict=True):
        x1, y1, x2, y2 = target.boxes.unbind(-1)
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        sides = [x - torch.maximum(x1, cx - reach), torch.minimum(x2, cx + reach) - x,
                 y - torch.maximum(y1, cy - reach), torch.minimum(y2, cy + reach) - y]
        inside = torch.stack(sides, dim=-1).amin(dim=-1) > 0
        quality = logits.sigmoid()[:, target.labels] ** (1 - alpha) * box_iou(boxes, target.boxes) ** alpha * inside
        pairs.append(linear_sum_assignment(quality.numpy(), maximize=True))
    return pairs


def plain_min_cost(output: DenseOutput, targets: list[Target]) -> list[tuple]:
    pairs = []
    for logits, boxes, target in zip(output.logits, output.boxes, targets, strict=True):
        p = logits.sigmoid()
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-12).log()
        negative = 0.75 * p**2 * -(1 - p + 1e-12).log()
        size = torch.tensor([HW[1], HW[0], HW[1], HW[0]])
        l1 = torch.cdist(to_cxcywh(boxes) / size, to_cxcywh(target.boxes) / size, p=1)
        cost = 2 * (positive - negative)[:, target.labels] + 5 * l1 - 2 * generalized_box_iou(boxes, target.boxes)
        pairs.append(linear_sum_assignment(cost.numpy()))
    return pairs


def same_pairs(matches: Matches, pairs: list[tuple]) -> bool:
    ours = sorted(zip(matches.image.tolist(), matches.prior.tolist(), matches.gt.tolist(), strict=True))
    theirs = sorted((i, int(p), int(g)) for i, (rows, columns) in enumerate(pairs)
                    for p, g in zip(rows, columns, strict=True))
    return ours == theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    targets = draw_targets(args.images, args.boxes, HW, "cpu")
    output = predictions(args.images, 80, targets, "cpu")
    print(f"{args.images} images, {args.boxes} boxes, {len(output.priors):,} points, 80 classes, "
          f"{torch.get_num_threads()} threads")
    report = {"torch": torch.__version__, "threads": torch.get_num_threads(), "points": len(output.priors)}
    cases: dict[str, tuple[Assigner, Callable[..., list[tuple]]]] = {
        "poto": (POTO(), plain_poto), "min_cost": (MinCost(), plain_min_cost),
    }
    for name, (assigner, plain) in cases.items():
        branch = DenseBranch(assigner, {"cls": Focal()})  # as training calls it
        equal = same_pairs(branch.match(output, targets), plain(output, targets))
        times = alternate({
            "plain": lambda plain=plain: plain(output, targets),
            "ours": lambda branch=branch: branch.match(output, targets),
        }, args.rounds, "cpu")
        ratio = times["plain"] / times["ours"]
        print(f"{name}: plain {times['plain']:.3f} s, ours {times['ours']:.3f} s, {ratio:.1f} times; "
              f"{'the same pairs' if equal else 'OTHER PAIRS'}")
        report[name] = {**times, "ratio": ratio, "same_pairs": equal}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
