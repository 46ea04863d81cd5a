"""BiSeNet: bilateral segmentation network for real-time semantic segmentation, arXiv:1808.00897."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from torch import nn

from bifocals.data import Data, MapInput
from bifocals.losses import OHEM, Dice, PixelCE
from bifocals.networks import Backbone, BiSeNet, build_backbone
from bifocals.objective import Objective, PixelBranch
from bifocals.predict import PixelPostprocess
from bifocals.structures import PixelLoss
from bifocals.train import Experiment, Optim

from .assembly import start_from

Preset = Literal["cityscapes", "camvid", "voc", "cocostuff", "own"]
PixelLossName = Literal["ohem", "ce", "dice", "ohem+dice", "ce+dice"]

# The release's, with MoSegNAS's number of steps (arXiv:2208.06820, section IV): fusion and output heads learn ten times
# faster than the rest, and neither norms nor biases decay. MoSegNAS prints a weight decay of 1e-5.
BISENET_OPTIM = Optim("sgd", lr=0.01, batch_size=16, weight_decay=5e-4, decay_norms=False, backbone_lr_factor=1.0,
                      head_lr_factor=10.0, clip_norm=None, schedule="poly", power=0.9, warmup_steps=1000,
                      warmup_factor=0.1)
BISENET_BODY = Backbone("resnet18", "pytorch", frozen_stages=-1, norm="train")
BISENET_INPUT = MapInput()

COPIED = ("backbone", "context", "spatial", "head.fusion")
"""What a run takes over from a trained network."""


@dataclass(frozen=True)
class Schedule:
    """What a data set asks for: how its pictures are sized, and passes over its training images."""

    input: Callable[[float], MapInput]
    epochs: float


# Steps times images of a step over training images, where MoSegNAS says so.
SCHEDULES: dict[str, Schedule] = {
    "cityscapes": Schedule(lambda factor: MapInput(factor), 40_000 * 16 / 2975),
    "camvid": Schedule(MapInput.camvid, 100),
    "voc": Schedule(lambda factor: replace(MapInput.voc(), factor=factor), 60_000 * 16 / 10_582),
    "cocostuff": Schedule(lambda factor: replace(MapInput.coco_stuff(), factor=factor), 20_000 * 16 / 9000),
    "own": Schedule(lambda factor: MapInput(factor, crop_hw=(512, 512)), 100),
}


def bisenet(
    preset: Preset = "cityscapes",
    spatial_path: bool = True,
    head_width: int = 256,
    aux: float = 1.0,
    loss: PixelLossName = "ohem",
    init: str | None = None,
    backbone: Backbone = BISENET_BODY,
    input: MapInput = BISENET_INPUT,
    epochs: float | None = None,
    data: Data = Data(),
    optim: Optim = BISENET_OPTIM,
) -> Experiment:
    """BiSeNet: bilateral segmentation network for real-time semantic segmentation, arXiv:1808.00897.

    V1 as the searched networks of MoSegNAS (arXiv:2208.06820) use it: a body and its context path, a shallow spatial
    path, and hard pixels in every loss.

        bifocals train bisenet --data.root cityscapes                 # R18: the paper has 74.8 mIoU; not run by us
        bifocals train bisenet --preset camvid --data.root camvid
        bifocals train bisenet --no-spatial-path --head-width 64      # the decoder of MoSegNAS's costs

    Args:
        preset: The data set whose window and number of epochs are used: cityscapes, camvid, voc, cocostuff, or own.
        spatial_path: Without it the output head reads the context path alone.
        head_width: Channels inside the output head.
        aux: Weight of the loss of each of the two auxiliary heads, which only training has; 0 leaves them out.
        loss: Of every head: hard pixels (ohem), all pixels (ce), and dice, alone or beside one of them.
        init: A trained BiSeNet (work directory, checkpoint or weight file) to copy all but its output heads from.
        backbone: The body and its weights; batch norms learn.
        input: Size of the images and augmentation; what is left at its default is the preset's.
        epochs: Passes over the training images; the preset's where not given.
        data: Where the images are.
        optim: Optimizer and schedule.
    """
    if preset not in SCHEDULES:
        raise ValueError(f"bisenet knows the presets {get_args(Preset)}, got {preset!r}.")
    if aux < 0:
        raise ValueError(f"bisenet expected a weight of 0 or more for aux, got {aux}.")
    schedule = SCHEDULES[preset]
    strides = {name: s for name, s in BiSeNet.STRIDES.items() if name == "main" or aux}
    pixel_losses(loss)  # an unknown name is said before any data is read

    def network(num_classes: int) -> nn.Module:
        return BiSeNet(build_backbone(backbone), num_classes, spatial_path=spatial_path, head_width=head_width,
                       aux=bool(aux))

    def objective() -> Objective:
        return Objective({
            name: PixelBranch(pixel_losses(loss), stride=stride, weight=1.0 if name == "main" else aux)
            for name, stride in strides.items()
        })

    return Experiment(
        network=network,
        start=start_from(backbone, init, COPIED),
        start_once=init is not None,
        objective=objective,
        postprocess={"main": PixelPostprocess(BiSeNet.STRIDES["main"])},
        output="main",
        input=with_preset(input, schedule.input(input.factor)),
        data=data,
        optim=optim,
        epochs=schedule.epochs if epochs is None else epochs,
        task="segment",
    )


def pixel_losses(name: PixelLossName) -> dict[str, PixelLoss]:
    """The losses of a head by name: `pixel` and, with dice, `dice`."""
    made: dict[str, dict[str, PixelLoss]] = {"ohem": {"pixel": OHEM()}, "ce": {"pixel": PixelCE()},
                                             "dice": {"dice": Dice()}}
    parts = name.split("+")
    if name not in get_args(PixelLossName):
        raise ValueError(f"bisenet knows the losses {get_args(PixelLossName)}, got {name!r}.")
    return {key: loss for part in parts for key, loss in made[part].items()}


def with_preset(given: MapInput, preset: MapInput) -> MapInput:
    """`preset` with the fields of `given` that somebody has set: those that are not at their defaults."""
    default = MapInput()
    said = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name) != getattr(default, f.name)}
    return replace(preset, **said)
