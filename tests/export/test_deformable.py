"""Deformable convolution and refined boxes as an ONNX file: opset 19, and the numbers of the eager network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bifocals.export import OnnxDetector, export_onnx
from bifocals.networks import DenseDetector, DenseHead, StarPredictor
from bifocals.networks.deformable import ModulatedConv2d
from bifocals.predict import Postprocess

from .conftest import CLASSES, HW, TinyBody, pictures


class TwoLevels(nn.Module):
    """C4 and C5, widened: a graph of five levels takes its time to be traced."""

    strides = (16, 32)

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 64, 1) for c in channels[2:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.convs, features[1:], strict=True)]


def refining() -> DenseDetector:
    """Stars, deformable towers, and offsets that move the taps."""
    torch.manual_seed(4)
    body, predictor = TinyBody(), StarPredictor(64, 3, num_levels=2)
    head = DenseHead({"one2many": predictor}, TwoLevels.strides, 64, depth=1, deformable=True)
    nn.init.normal_(predictor.cls.weight, std=0.15)
    nn.init.constant_(predictor.cls.bias, -1.0)
    nn.init.normal_(predictor.initial.weight, std=0.05)
    nn.init.normal_(predictor.box.weight, std=0.2)
    nn.init.constant_(predictor.initial.bias, -1.5)
    for part in head.modules():
        if isinstance(part, ModulatedConv2d):
            nn.init.normal_(part.offset.weight, std=0.05)
    return DenseDetector(body, TwoLevels(body.channels), head).eval()


def test_the_file_computes_the_same(tmp_path):
    postprocess = Postprocess(0.1, 100, 50, 0.6)
    certificate = export_onnx(
        refining(), tmp_path / "model.onnx", output="one2many", postprocess=postprocess, input_hw=HW, images=pictures(),
        classes=CLASSES, runs=3, log=lambda line: None,
    )
    assert certificate.opset == 19 and certificate.ops["DeformConv"] == 2 * (2 + 2)
    assert all(difference.compared > 10 for difference in certificate.parity.values())
    found = OnnxDetector(tmp_path / "model.onnx")(pictures(2))
    assert all(len(one) > 5 for one in found)
