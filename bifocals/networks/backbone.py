"""Bodies: images in, the feature maps C2..C5 (strides 4, 8, 16, 32) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from .deformable import make_deformable, offset_names, renamed_for
from .pixels import Normalize, Style

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
RESNEXTS = ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
NAMES = (*RESNETS, *RESNEXTS, "mobilenet_v2")
# Layers of MobileNetV2, cut where the stride changes; the last 1x1 convolution serves classification alone.
MOBILENET_CUTS = ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))
CAFFE_FILES = {"resnet50": "resnet50_caffe-788b5fa3.pth", "resnet101": "resnet101_caffe-3ad79236.pth"}


Norm = Literal["frozen", "affine", "train"]


@dataclass(frozen=True)
class Backbone:
    """Which body, from which weights, and what of it learns."""

    name: str = "resnet50"
    """resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d, mobilenet_v2, or
    timm:NAME for any timm body with features."""
    style: Style = "caffe"
    """What the weights were trained with. caffe: BGR, stride in the first 1x1 convolution (the papers' weights), of a
    ResNeXt in the 3x3 one.
    pytorch: RGB with ImageNet's mean and std, stride in the 3x3 convolution (torchvision's and timm's weights)."""
    weights: str = "auto"
    """A weight file (.pth or .safetensors); "imagenet" lets torchvision or timm download; "none" starts random;
    "auto" takes a file already in torch's cache and starts random where there is none."""
    frozen_stages: int = 1
    """Stages that do not learn, counted from the stem: 0 the stem, 1 also C2, -1 nothing.
    A body that starts random is never frozen; of timm's bodies only the norms are."""
    norm: Norm = "frozen"
    """frozen: batch norm keeps statistics, scale and shift, as detectors with small batches need it. affine: it keeps
    its statistics, and scale and shift learn (mmdetection). train: all of it learns."""
    deformable: bool = False
    """A modulated deformable convolution (DCNv2) in the place of every 3x3 convolution of C3, C4 and C5."""

    def __post_init__(self) -> None:
        if self.name not in NAMES and not self.name.startswith("timm:"):
            raise ValueError(f"Backbone expected a name of {NAMES} or timm:NAME, got {self.name!r}.")
        if not -1 <= self.frozen_stages <= 4:
            raise ValueError(f"Backbone expected frozen_stages from -1 to 4, got {self.frozen_stages}.")
        if self.norm not in get_args(Norm):
            raise ValueError(f"Backbone expected norm to be one of {get_args(Norm)}, got {self.norm!r}.")


class Body(nn.Module):
    """Images -> C2..C5. `freeze` holds the first stages and the batch norms still, also through `train()`.

    stages: the parts that can be frozen, the stem first. channels: of C2..C5.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: tuple[int, ...], config: Backbone) -> None:
        super().__init__()
        self.normalize = Normalize(config.style)
        self.stages = nn.ModuleList(stages)
        self.channels = channels
        self.freeze(config.frozen_stages, config.norm)

    def freeze(self, stages: int, norm: Norm) -> None:
        """Keeps the first stages (0: the stem, -1: none) from learning, and of all batch norms what `norm` says."""
        self.frozen_stages, self.frozen_norm = stages, norm != "train"
        self.requires_grad_(True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(norm != "frozen")
        for stage in self.stages[: stages + 1]:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> Body:
        super().train(mode)
        for i, stage in enumerate(self.stages):
            for module in stage.modules():
                if isinstance(module, nn.BatchNorm2d) and (self.frozen_norm or i <= self.frozen_stages):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [], self.normalize(images)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class TimmBody(Body):
    """A timm body and its features of strides 4..32. timm's stages have no common names, so only norms are frozen."""

    def __init__(self, config: Backbone) -> None:
        timm = _import_timm(config)
        name = config.name.removeprefix("timm:")
        if not timm.is_model(name):
            close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "none with a like name"
            raise ValueError(f"Backbone expected a timm model, got {name!r}; timm knows {close}.")
        model = timm.create_model(name, features_only=True, pretrained=False)
        strides: list[int] = model.feature_info.reduction()
        self.wanted = [i for i, r in enumerate(strides) if r in (4, 8, 16, 32)]
        if [strides[i] for i in self.wanted] != [4, 8, 16, 32]:
            raise ValueError(f"Backbone expected a timm body with features of strides 4, 8, 16, 32, "
                             f"got {name!r} with {strides}.")
        if config.deformable:
            parts = dict(model.named_children())
            c2 = model.feature_info.module_name()[self.wanted[0]].replace(".", "_")
            behind = list(parts)[list(parts).index(c2) + 1 :] if c2 in parts else []
            _make_deformable([parts[part] for part in behind], config)
        channels = tuple(model.feature_info.channels()[i] for i in self.wanted)
        super().__init__([model], channels, replace(config, frozen_stages=-1))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stages[0](self.normalize(images))
        return [features[i] for i in self.wanted]


def _import_timm(config: Backbone) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"Backbone {config.name!r} needs timm, which is not installed: "
                         "pip install 'bifocals[timm]'.") from error
    return timm


def build_backbone(config: Backbone) -> Body:
    """The body that `config` names, with random weights."""
    if config.name.startswith("timm:"):
        return TimmBody(config)
    if config.name == "mobilenet_v2":
        layers = models.mobilenet_v2(weights=None).features
        cut = [layers[a:b] for a, b in MOBILENET_CUTS]
        if config.deformable:
            _make_deformable(cut[2:], config)
        return Body(cut, (24, 32, 96, 320), config)
    resnet = getattr(models, config.name)(weights=None)
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    stages = [stem, resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    if config.style == "caffe" and config.name not in RESNEXTS:
        for module in resnet.modules():
            if isinstance(module, models.resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    if config.deformable:
        _make_deformable(stages[2:], config)
    expansion = 1 if config.name in ("resnet18", "resnet34") else 4
    return Body(stages, tuple(c * expansion for c in (64, 128, 256, 512)), config)


def _make_deformable(stages: Sequence[nn.Module], config: Backbone) -> None:
    if not sum(make_deformable(stage) for stage in stages):
        raise ValueError(f"Backbone expected a body with 3x3 convolutions in C3 to C5 to make deformable, "
                         f"got {config.name!r}, which has none; ResNets have.")


def load_backbone(body: Body, config: Backbone) -> str:
    """Puts the weights that `config` asks for into the body, and says in one sentence what was done.

    A body for which there are no weights is unfrozen. ValueError if the file does not fit the body.
    """
    state, origin = _find_weights(config)
    if state is None:
        body.freeze(-1, "train")
        return (f"backbone {config.name}: {origin}; it starts random, so all of it learns. Give a file with "
                "--backbone.weights, or 'imagenet' to download.")
    part, named = (body.stages[0], state) if isinstance(body, TimmBody) else (body, _to_stages(state, config))
    missing, unexpected = part.load_state_dict(renamed_for(part, named), strict=False)
    offsets = offset_names(part)
    missing = [k for k in missing if not k.endswith("num_batches_tracked") and k not in offsets]
    if missing:
        raise ValueError(f"Backbone {config.name} expected all its weights in {origin}, got a file without "
                         f"{len(missing)} of them, {missing[0]} the first; the file also has {list(unexpected)[:3]}.")
    return f"backbone {config.name}: {len(state)} tensors from {origin}, style {config.style}."


def _find_weights(config: Backbone) -> tuple[dict[str, Tensor] | None, str]:
    if config.weights == "none":
        return None, "no weights asked for"
    if config.weights not in ("auto", "imagenet"):
        path = Path(config.weights)
        if not path.is_file():
            raise ValueError(f"Backbone expected --backbone.weights to name a file, 'auto', 'imagenet' or 'none', "
                             f"got {config.weights!r}.")
        return _read(path), path.name
    if config.name.startswith("timm:"):
        if config.weights == "auto":
            return None, "weights 'auto' knows no cache for timm"
        timm = _import_timm(config)
        model = timm.create_model(config.name.removeprefix("timm:"), features_only=True, pretrained=True)
        return model.state_dict(), "timm"
    if config.style == "caffe":
        name = CAFFE_FILES.get(config.name, "")
    else:
        name = models.get_model_weights(config.name).DEFAULT.url.rsplit("/", 1)[1]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if name and cached.is_file():
        return _read(cached), cached.name
    if config.weights == "auto":
        return None, f"no {config.style} weights in torch's cache"
    if config.style == "caffe":
        raise ValueError(f"Backbone weights 'imagenet' expected style 'pytorch', got 'caffe': torchvision has no "
                         f"caffe weights; put {name or 'the file'} into {cached.parent} or name it.")
    return models.get_model_weights(config.name).DEFAULT.get_state_dict(progress=True), "torchvision"


def _read(path: Path) -> dict[str, Tensor]:
    state: dict[str, Any] = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    )
    state = state.get("state_dict", state)
    # Published files may hold half precision; the body keeps its own.
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _to_stages(state: dict[str, Tensor], config: Backbone) -> dict[str, Tensor]:
    """torchvision's names -> ours: the layers keep theirs, the stage comes before them."""
    names = {"conv1": "0.0", "bn1": "0.1", **{f"layer{i}": str(i) for i in range(1, 5)}}
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if config.name == "mobilenet_v2" and head == "features":
            stage = sum(int(rest.split(".")[0]) >= start for _, start in MOBILENET_CUTS)
            if stage < len(MOBILENET_CUTS):
                renamed[f"stages.{stage}.{rest}"] = value
        elif head in names:
            renamed[f"stages.{names[head]}.{rest}"] = value
    return renamed
