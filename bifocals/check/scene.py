"""Small drawn situations that every part must survive: crowds, tiny and huge objects, an empty image."""

from __future__ import annotations

import torch

from bifocals.structures import DenseOutput, Matched, Matches, Priors, Target, boxes_from_distances, make_points

SIZE_HW = (96, 128)
NUM_CLASSES = 3


def scene_priors() -> Priors:
    """The points of P3..P7 of a 96x128 image, each with an anchor of four strides around it."""
    sizes = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
    points = make_points(sizes, (8, 16, 32, 64, 128))
    half = 2 * points.strides[:, None]
    anchors = torch.cat([points.points - half, points.points + half], dim=-1)
    return Priors(points.points, points.strides, points.level_sizes, anchors)


def scene_target(num_objects: int, seed: int = 0) -> Target:
    """Objects of many sizes; the first two overlap heavily, the third is smaller than a pixel grid's cell."""
    draw = torch.Generator().manual_seed(seed)
    height, width = SIZE_HW
    center = torch.rand(num_objects, 2, generator=draw) * torch.tensor([width, height])
    side = torch.exp(torch.rand(num_objects, 2, generator=draw) * 3 + 1.5)  # 4.5 to 90 pixels
    if num_objects > 1:
        center[1], side[1] = center[0] + 1.5, side[0]
    if num_objects > 2:
        side[2] = 2.5
    boxes = torch.cat([center - side / 2, center + side / 2], dim=-1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    labels = torch.randint(NUM_CLASSES, (num_objects,), generator=draw)
    return Target(boxes, labels, torch.zeros(num_objects, dtype=torch.bool), SIZE_HW, SIZE_HW)


def scene_output(num_images: int, seed: int = 1) -> DenseOutput:
    """Random predictions with a quality map; logits, boxes and quality are leaves that take gradient."""
    draw = torch.Generator().manual_seed(seed)
    priors = scene_priors()
    shape = (num_images, len(priors))
    logits = (torch.randn(*shape, NUM_CLASSES, generator=draw) - 2).requires_grad_()
    sides = torch.rand(*shape, 4, generator=draw) * 4 * priors.strides[:, None] + 1
    boxes = boxes_from_distances(priors.points, sides).requires_grad_()
    deltas = sides.clone().requires_grad_()
    return DenseOutput(logits, deltas, boxes, priors, torch.randn(*shape, generator=draw).requires_grad_())


def scene_matched(num_objects: tuple[int, ...], seed: int = 2) -> Matched:
    """A matched view in which each object has up to two points that lie inside it."""
    output = scene_output(len(num_objects), seed)
    targets = [scene_target(n, seed + i) for i, n in enumerate(num_objects)]
    points = output.priors.points
    image, prior, gt = [], [], []
    for i, target in enumerate(targets):
        inside = ((points[:, None] > target.boxes[:, :2]) & (points[:, None] < target.boxes[:, 2:])).all(-1)
        for g in range(len(target.labels)):
            for p in torch.nonzero(inside[:, g])[:2, 0].tolist():
                image.append(i)
                prior.append(p)
                gt.append(g)
    pairs = (torch.tensor(x, dtype=torch.int64) for x in (image, prior, gt))
    return Matched(output, targets, Matches(*pairs))
