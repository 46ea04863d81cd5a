"""A training step and its assignment + losses, beside torchvision's FCOS on the same body and input, in one run.

    python benchmarks/step.py                     # CPU: step at 2 x 320x320, assignment + losses at 8 x 640x640
    python benchmarks/step.py --device cuda --batch 16 --hw 800 1344 --losses-batch 16 --losses-hw 800 1344

Both sides alternate in one process; the ratio of the medians is what counts, the times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bifocals.networks import FPN, Backbone, DenseDetector, DenseHead, build_backbone
from bifocals.objective import Objective
from bifocals.recipes.fcos import fcos_branch, fcos_predictor
from bifocals.recipes.onenet import one2one_branch, one2one_predictor
from bifocals.structures import DenseOutput, Target

NUM_CLASSES = 80


def draw_targets(num_images: int, num_boxes: int, hw: tuple[int, int], device: str) -> list[Target]:
    """Boxes of 16 to 300 pixels, log-uniform, anywhere in the image."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([hw[1], hw[0]])
    targets = []
    for _ in range(num_images):
        side = 16 * torch.exp(torch.rand(num_boxes, 2, generator=draw) * 2.93)
        low = torch.rand(num_boxes, 2, generator=draw) * (size - side).clamp(min=0)
        boxes = torch.cat([low, torch.minimum(low + side, size)], dim=1)
        labels = torch.randint(NUM_CLASSES, (num_boxes,), generator=draw)
        targets.append(Target(boxes, labels, torch.zeros(num_boxes, dtype=torch.bool), hw, hw).to(device))
    return targets


def torchvision_fcos(hw: tuple[int, int]) -> FCOS:
    """As `fcos_resnet50_fpn` with ImageNet weights would build it: stem and first stage frozen, frozen batch norms."""
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3,
                               returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(body, NUM_CLASSES, min_size=min(hw), max_size=max(hw))


def ours(recipe: str) -> tuple[DenseDetector, Objective]:
    body = build_backbone(Backbone("resnet50", style="pytorch"))
    neck = FPN(body.channels[1:])
    predictors, branches = {}, {}
    if recipe in ("fcos", "date"):
        tricks = recipe == "fcos"  # DATE-F's one-to-many half is the first FCOS
        predictors["one2many"] = fcos_predictor(tricks)(256, NUM_CLASSES)
        branches["one2many"] = fcos_branch(1.5, "giou") if tricks else fcos_branch()
    if recipe in ("onenet", "date"):
        predictors["one2one"] = one2one_predictor(256, NUM_CLASSES)
        branches["one2one"] = one2one_branch("poto")
    return DenseDetector(body, neck, DenseHead(predictors, neck.strides)), Objective(branches)


def timed(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each, taken in turns after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds = timed(work, device)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(t) for name, t in times.items()}


def to_torchvision(targets: list[Target]) -> list[dict[str, torch.Tensor]]:
    return [{"boxes": t.boxes, "labels": t.labels} for t in targets]


def measure_losses(batch: int, hw: tuple[int, int], num_boxes: int, rounds: int, device: str) -> dict[str, float]:
    """Assignment, losses and their gradient at the head's outputs."""
    targets = draw_targets(batch, num_boxes, hw, device)
    theirs = torchvision_fcos(hw).to(device)
    sizes = [(-(-hw[0] // s), -(-hw[1] // s)) for s in (8, 16, 32, 64, 128)]
    features = [torch.zeros(batch, 256, *size, device=device) for size in sizes]
    images = torch.zeros(batch, 3, *hw, device=device)
    with torch.no_grad():
        head = {k: v.detach() for k, v in theirs.head(features).items()}
    anchors = theirs.anchor_generator(ImageList(images, [hw] * batch), features)
    counts = [f.shape[2] * f.shape[3] for f in features]
    labels = to_torchvision(targets)

    def torchvision_losses() -> None:
        leaves = {k: v.clone().requires_grad_() for k, v in head.items()}
        sum(theirs.compute_loss(labels, leaves, anchors, counts).values()).backward()

    def our_losses(recipe: str) -> Callable[[], None]:
        network, objective = ours(recipe)
        network.to(device)
        with torch.no_grad():
            fixed = network.head(features)

        def run() -> None:
            outputs = {}
            for name, o in fixed.items():
                logits, boxes = o.logits.clone().requires_grad_(), o.boxes.clone().requires_grad_()
                quality = None if o.quality is None else o.quality.clone().requires_grad_()
                outputs[name] = DenseOutput(logits, o.deltas, boxes, o.priors, quality)
            objective(outputs, targets).total.backward()

        return run

    return alternate({"torchvision": torchvision_losses, "fcos": our_losses("fcos"), "date": our_losses("date")},
                     rounds, device)


def measure_step(batch: int, hw: tuple[int, int], num_boxes: int, rounds: int, device: str, precision: str) -> dict:
    """Forward, losses, backward and AdamW."""
    targets = draw_targets(batch, num_boxes, hw, device)
    pixels = torch.randint(0, 256, (batch, 3, *hw), dtype=torch.uint8, device=device)
    amp = partial(torch.autocast, device, torch.bfloat16, enabled=precision == "bf16")

    def torchvision_step() -> Callable[[], None]:
        model = torchvision_fcos(hw).to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5, fused=True)
        images, labels = list(pixels.float() / 255), to_torchvision(targets)

        def run() -> None:
            with amp():
                loss = sum(model(images, labels).values())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def our_step(recipe: str, compiled: bool = False) -> Callable[[], None]:
        network, objective = ours(recipe)
        network = network.to(device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-5, fused=True)
        forward = torch.compile(network) if compiled else network
        images = pixels.contiguous(memory_format=torch.channels_last)

        def run() -> None:
            with amp():
                outputs = forward(images)
            objective(outputs, targets).total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    works = {"torchvision": torchvision_step(), **{name: our_step(name) for name in ("fcos", "onenet", "date")}}
    if device == "cuda":
        works["date compiled"] = our_step("date", compiled=True)
    return alternate(works, rounds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2, help="images of the training step")
    parser.add_argument("--hw", type=int, nargs=2, default=(320, 320), help="height and width of the training step")
    parser.add_argument("--losses-batch", type=int, default=8, help="images of assignment + losses alone")
    parser.add_argument("--losses-hw", type=int, nargs=2, default=(640, 640), help="their height and width")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", default="both", choices=["both", "step", "losses"])
    args = parser.parse_args()
    report: dict[str, object] = {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                                 "torch": torch.__version__, "threads": torch.get_num_threads()}
    if args.part != "step":
        size = f"batch {args.losses_batch}, {args.losses_hw[0]}x{args.losses_hw[1]}"
        times = measure_losses(args.losses_batch, tuple(args.losses_hw), 30, args.rounds, args.device)
        print_times(f"assignment + losses and their gradient, {size}, 30 boxes an image", times)
        report["losses_s"] = times
    if args.part != "losses":
        times = measure_step(args.batch, tuple(args.hw), 30, args.rounds, args.device, args.precision)
        print_times(f"training step, ResNet-50, batch {args.batch}, {args.hw[0]}x{args.hw[1]}, {args.precision}", times)
        print("".join(f"  {n}: {args.batch / t:.1f} images/s\n" for n, t in times.items()), end="")
        print(f"  DATE-F takes {times['date'] / times['onenet']:.3f} times OneNet's step")
        report["step_s"] = times
        if args.part == "both" and (args.batch, tuple(args.hw)) == (args.losses_batch, tuple(args.losses_hw)):
            losses = report["losses_s"]
            assert isinstance(losses, dict)
            report["losses_share_of_step"] = {n: losses[n] / times[n] for n in ("torchvision", "fcos", "date")}
            print(f"share of assignment + losses in the step: {report['losses_share_of_step']}")
    print(json.dumps(report))


def print_times(title: str, times: dict[str, float]) -> None:
    print(title)
    for name, seconds in times.items():
        print(f"  {name:14s} {seconds * 1e3:9.1f} ms   torchvision / this {times['torchvision'] / seconds:5.2f}")


if __name__ == "__main__":
    main()
