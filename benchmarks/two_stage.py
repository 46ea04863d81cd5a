"""The training step of Faster R-CNN beside torchvision's, in turns in one process.

    python benchmarks/two_stage.py [--hw 320 320] [--batch 4] [--rounds 8] [--device cpu]

ResNet-50, 20 classes, random weights, stem and first stage frozen, the same drawn boxes; a step is forward, losses,
backward and SGD. Ours is configured as theirs (`RPNHead.torchvision()`, `RoIHead.torchvision()`: 2,000 proposals,
512 regions of an image), and runs as `fit` runs it, channels last; torchvision's is as it comes, and in channels last
too. Prints medians, and the ratio of ours to the faster of both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from bifocals.networks import Backbone
from bifocals.recipes import faster_rcnn
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.structures import Batch, Target

Step = Callable[[], None]
OBJECTS = 10


def drawn(batch: int, hw: tuple[int, int], device: torch.device) -> Batch:
    """Noise with ten boxes an image."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([hw[1], hw[0]])
    targets = []
    for _ in range(batch):
        corner = torch.rand(OBJECTS, 2, generator=generator) * size * 0.6
        boxes = torch.cat([corner, corner + (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator)) * size], dim=1)
        labels = torch.randint(20, (OBJECTS,), generator=generator)
        targets.append(Target(boxes, labels, torch.zeros(OBJECTS, dtype=torch.bool), hw, hw))
    images = torch.randint(256, (batch, 3, *hw), generator=generator, dtype=torch.uint8)
    return Batch(images, tuple(targets)).to(device)


def our_step(batch: Batch, device: torch.device) -> Step:
    torch.manual_seed(0)
    experiment = faster_rcnn(rpn=RPNHead.torchvision(), roi=RoIHead.torchvision(),
                             backbone=Backbone("resnet50", "pytorch", weights="none"))
    network = experiment.network(20).to(device, memory_format=torch.channels_last).train()
    objective = experiment.objective().to(device)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1e-4)

    def step() -> None:
        losses = objective(network(batch.images, batch.targets), batch.targets)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(batch: Batch, hw: tuple[int, int], device: torch.device, channels_last: bool) -> Step:
    torch.manual_seed(0)
    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21, trainable_backbone_layers=5,
                                      min_size=min(hw), max_size=max(hw)).to(device).train()
    for part in (network.backbone.body.conv1, network.backbone.body.bn1, network.backbone.body.layer1):
        part.requires_grad_(False)  # frozen by itself only where the body has weights
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1e-4)
    images = [image.float() / 255 for image in batch.images]
    targets = [{"boxes": t.boxes, "labels": t.labels + 1} for t in batch.targets]

    def step() -> None:
        sum(network(images, targets).values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hw", type=int, nargs=2, default=(320, 320))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, hw = torch.device(args.device), tuple(args.hw)
    batch = drawn(args.batch, hw, device)
    steps = {"bifocals": our_step(batch, device), "torchvision": their_step(batch, hw, device, False),
             "torchvision, channels last": their_step(batch, hw, device, True)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(value for name, value in medians.items() if name != "bifocals")
    print(json.dumps({"seconds_a_step": medians, "ratio": medians["bifocals"] / fastest, "hw": hw, "batch": args.batch,
                      "rounds": args.rounds, "threads": torch.get_num_threads(), "device": str(device)}, indent=1))


if __name__ == "__main__":
    main()
