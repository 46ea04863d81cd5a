"""ATSS of a batch at once beside the plain way: a loop over images and levels, IoU of all anchors with all objects.

    python benchmarks/atss.py                     # 8 images, 30 boxes each, 21,330 anchors
    python benchmarks/atss.py --device cuda

Both sides see the same objects, alternate in one process and must name the same pairs; the ratio of the medians is
what counts. Where the machine is shared, --cpu-time counts processor time in place of the clock's.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from step import draw_targets
from torch import Tensor
from torchvision.ops import box_iou

from bifocals.assign import ATSS
from bifocals.structures import Anchors, Priors, Target, make_points

STRIDES = (8, 16, 32, 64, 128)
HW = (800, 1280)


def plain(priors: Priors, targets: list[Target], k: int = 9) -> list[tuple[Tensor, Tensor]]:
    pairs, centers = [], (priors.boxes[:, :2] + priors.boxes[:, 2:]) / 2
    for target in targets:
        boxes, iou = target.boxes, box_iou(priors.boxes, target.boxes)  # [P, G]
        distance = (centers[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).pow(2).sum(-1).sqrt()
        rows, start = [], 0
        for size in priors.level_sizes:
            rows.append(distance[start : start + size].topk(min(k, size), dim=0, largest=False).indices + start)
            start += size
        chosen = torch.cat(rows)  # [K, G]
        overlap = iou.gather(0, chosen)
        at = centers[chosen]
        inside = torch.cat([at - boxes[:, :2], boxes[:, 2:] - at], dim=-1).amin(-1) > 0.01
        positive = inside & (overlap >= overlap.mean(0) + overlap.std(0))
        best = torch.full_like(iou, -1).scatter_(0, chosen, torch.where(positive, overlap, -1.0))
        value, gt = best.max(dim=1)
        prior = torch.nonzero(value >= 0)[:, 0]
        pairs.append((prior, gt[prior]))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--boxes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    targets = draw_targets(args.images, args.boxes, HW, args.device)
    sizes = [(-(-HW[0] // s), -(-HW[1] // s)) for s in STRIDES]
    priors = Anchors(8.0, 1, (1.0,)).at(make_points(sizes, STRIDES, device=args.device))
    now = time.process_time if args.cpu_time else time.perf_counter

    def timed(work) -> float:
        began = now()
        work()
        if args.device != "cpu":
            torch.cuda.synchronize()
        return now() - began

    assigner, times = ATSS(), {"plain": [], "ours": []}
    found = assigner.batch(priors, targets)
    same = all(found.of_image(i).prior.tolist() == prior.tolist() and found.of_image(i).gt.tolist() == gt.tolist()
               for i, (prior, gt) in enumerate(plain(priors, targets)))
    for _ in range(args.rounds):
        times["plain"].append(timed(lambda: plain(priors, targets)))
        times["ours"].append(timed(lambda: assigner.batch(priors, targets)))
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    print(json.dumps({
        "torch": torch.__version__, "threads": torch.get_num_threads(), "device": args.device, "images": args.images,
        "boxes": args.boxes, "anchors": len(priors), "cpu_time": args.cpu_time, **median,
        "ratio": median["plain"] / median["ours"], "same_pairs": same, "pairs": len(found),
    }))


if __name__ == "__main__":
    main()
