"""A small detector whose scores differ enough to be sorted, real-looking pictures, and its exported files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bifocals.export import Certificate, export_onnx
from bifocals.networks import FPN, DenseDetector, DenseHead, Normalize, PointPredictor
from bifocals.predict import Postprocess

HW = (64, 96)
CLASSES = ("red", "green", "blue")


class TinyBody(nn.Module):
    """C2 to C5 of 8 to 32 channels."""

    channels = (8, 16, 24, 32)

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize("pytorch")
        steps = zip((3, 8, 16, 24), self.channels, (4, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.ReLU()) for a, b, s in steps)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, levels = self.normalize(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def tiny(num_classes: int = 3, qualities: tuple[str | None, str | None] = (None, "cls")) -> DenseDetector:
    """A detector with two outputs, drawn so that scores and boxes vary from prior to prior."""
    torch.manual_seed(3)
    body = TinyBody()
    predictors = {
        "one2one": PointPredictor(64, num_classes, "relu", qualities[0]),  # type: ignore[arg-type]
        "one2many": PointPredictor(64, num_classes, "exp_stride", qualities[1]),  # type: ignore[arg-type]
    }
    network = DenseDetector(body, FPN(body.channels[1:], 64), DenseHead(predictors, FPN.strides, 64, depth=1))
    for name, predictor in predictors.items():
        nn.init.normal_(predictor.cls.weight, std=0.12)
        nn.init.constant_(predictor.cls.bias, -2.0)  # type: ignore[arg-type]
        nn.init.normal_(predictor.box.weight, std=0.03)
        nn.init.constant_(predictor.box.bias, 1.5 if name == "one2one" else 0.5)  # type: ignore[arg-type]
        if predictor.quality is not None:
            nn.init.normal_(predictor.quality.weight, std=0.1)
    return network.eval()


def pictures(number: int = 4) -> list[Tensor]:
    """Blocks of color over a gradient, of different sizes: landscape, portrait and square."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in [(120, 180), (90, 60), (64, 96), (200, 200)][:number]:
        image = np.linspace(0, 120, width)[None, :, None] * np.ones((height, 1, 3))
        for _ in range(8):
            y, x = rng.integers(0, height - 10), rng.integers(0, width - 10)
            image[y : y + rng.integers(8, 60), x : x + rng.integers(8, 60)] = rng.integers(0, 256, 3)
        made.append(torch.from_numpy(image.astype(np.uint8)).permute(2, 0, 1).contiguous())
    return made


@dataclass(frozen=True)
class Exported:
    network: DenseDetector
    output: str
    postprocess: Postprocess
    path: Path
    certificate: Certificate


def _export(folder: Path, output: str, postprocess: Postprocess) -> Exported:
    network = tiny()
    certificate = export_onnx(
        network, folder / "model.onnx", output=output, postprocess=postprocess, input_hw=HW, images=pictures(),
        classes=CLASSES, runs=3, log=lambda line: None,
    )
    return Exported(network, output, postprocess, folder / "model.onnx", certificate)


@pytest.fixture(scope="session")
def nms_free(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory.mktemp("free"), "one2one", Postprocess(0.1, 100, 50))


@pytest.fixture(scope="session")
def with_nms(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory.mktemp("nms"), "one2many", Postprocess(0.1, 100, 50, 0.6))
