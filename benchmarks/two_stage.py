"""A training step and an evaluation of Faster R-CNN, beside torchvision's with the same weights, in one run.

    python benchmarks/two_stage.py                       # CPU, ResNet-50, 4 x 320x320
    python benchmarks/two_stage.py --device cuda --batch 16 --hw 800 1344 --precision bf16

Both have torchvision's anchors, pooling, sampling and losses; torchvision runs in its own memory format and in channels
last. The sides alternate in one process; the ratio of the medians is what counts, the times depend on the machine.
--cpu-time counts the seconds of the processor instead, for a machine that does other work too.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from bifocals.networks import Backbone
from bifocals.recipes import faster_rcnn
from bifocals.recipes.torchvision_weights import copy_torchvision
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.structures import Target
from bifocals.train import Source

NUM_CLASSES = 80
BODY = Backbone("resnet50", "pytorch", "none")


def draw_targets(num_images: int, num_boxes: int, hw: tuple[int, int]) -> list[Target]:
    """Boxes of 16 to 300 pixels, log-uniform, anywhere in the image."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([hw[1], hw[0]])
    targets = []
    for _ in range(num_images):
        side = 16 * torch.exp(torch.rand(num_boxes, 2, generator=draw) * 2.93)
        low = torch.rand(num_boxes, 2, generator=draw) * (size - side).clamp(min=0)
        boxes = torch.cat([low, torch.minimum(low + side, size)], dim=1)
        labels = torch.randint(NUM_CLASSES, (num_boxes,), generator=draw)
        targets.append(Target(boxes, labels, torch.zeros(num_boxes, dtype=torch.bool), hw, hw))
    return targets


def torchvision_model() -> FasterRCNN:
    """As `fasterrcnn_resnet50_fpn` with ImageNet weights would build it, without resizing."""
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    for norm in body.body.modules():  # random bodies explode otherwise, and proposals with them
        if hasattr(norm, "running_var"):
            norm.weight.fill_(0.5)
    model = FasterRCNN(body, NUM_CLASSES + 1)
    model.transform.resize = lambda image, target: (image, target)  # type: ignore[method-assign]
    return model


def measure(args: argparse.Namespace, training: bool) -> dict[str, float]:
    device, hw = args.device, tuple(args.hw)
    model = torchvision_model().train(training)
    preset = (replace(RPNHead.torchvision()), replace(RoIHead.torchvision()))
    targets = [t.to(device) for t in draw_targets(args.batch, args.boxes, hw)]
    pixels = torch.randint(0, 256, (args.batch, 3, *hw), dtype=torch.uint8).to(device)
    labels = [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets]

    def amp() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=args.precision == "bf16")

    def stepping(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1e-6, 0.9, fused=True)

        def run() -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def theirs(memory_format: torch.memory_format) -> Callable[[], None]:
        network = copy.deepcopy(model).to(device, memory_format=memory_format)  # type: ignore[call-overload]
        images = list((pixels / 255).contiguous(memory_format=memory_format))

        def loss() -> Tensor:
            with amp():
                return torch.stack(list(network(images, labels).values())).sum()

        def find() -> None:
            with torch.inference_mode(), amp():
                network(images)

        return stepping(network, loss) if training else find

    def ours(rpn: RPNHead, roi: RoIHead) -> Callable[[], None]:
        experiment = faster_rcnn(rpn, roi, backbone=BODY)
        network = experiment.network(NUM_CLASSES)
        copy_torchvision(network, Source(model.state_dict(), "the other side"), BODY)
        network = network.to(device, memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
        images = pixels.contiguous(memory_format=torch.channels_last)
        objective, postprocess = experiment.objective(), experiment.postprocess["roi"]

        def loss() -> Tensor:
            with amp():
                outputs = network(images, targets)
            return objective(outputs, targets).total

        def find() -> None:
            with torch.inference_mode(), amp():
                postprocess(network(images, targets)["roi"], targets)

        return stepping(network, loss) if training else find

    works = {
        "torchvision": theirs(torch.contiguous_format),
        "torchvision, channels last": theirs(torch.channels_last),
        "ours, torchvision's settings": ours(*preset),
        "ours, mmdetection's settings": ours(RPNHead(), RoIHead()),
    }
    return alternate(works, args.rounds, device, time.process_time if args.cpu_time else time.perf_counter)


def alternate(
    works: dict[str, Callable[[], None]], rounds: int, device: str, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each, taken in turns after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--hw", type=int, nargs=2, default=(320, 320))
    parser.add_argument("--boxes", type=int, default=10, help="objects of an image")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu", "torch": torch.__version__,
        "threads": torch.get_num_threads(), "batch": args.batch, "hw": list(args.hw), "precision": args.precision,
    }
    for training in (True, False):
        name = "training step" if training else "evaluation"
        times = measure(args, training)
        best = min(times["torchvision"], times["torchvision, channels last"])
        print(f"{name}, ResNet-50, batch {args.batch}, {args.hw[0]}x{args.hw[1]}, {args.precision}")
        for who, seconds in times.items():
            print(f"  {who:<30} {seconds:8.3f} s   {seconds / best:5.2f} of torchvision's best")
        report[name] = times
    print(json.dumps(report))


if __name__ == "__main__":
    main()
