"""A head with 3D max filtering as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from bifocals.export import export_onnx
from bifocals.export.program import Program
from bifocals.networks import FPN, DenseDetector, DenseHead, FilteredPredictor, PointPredictor
from bifocals.predict import Postprocess
from tests.export.conftest import CLASSES, HW, TinyBody, pictures

POSTPROCESS = Postprocess(0.05, 1000, 50)


def filtered() -> DenseDetector:
    """Drawn so that classes, boxes and filter all vary from prior to prior."""
    torch.manual_seed(3)
    body = TinyBody()
    inner = PointPredictor(64, len(CLASSES), "relu")
    predictors = {"one2one": FilteredPredictor(inner, 64), "one2many": PointPredictor(64, len(CLASSES), "exp", "cls")}
    network = DenseDetector(body, FPN(body.channels[1:], 64), DenseHead(predictors, FPN.strides, 64, depth=1))
    for conv, std, bias in ((inner.cls, 0.12, -1.0), (inner.box, 0.03, 1.5),
                            (predictors["one2one"].filter, 0.12, 1.0)):  # type: ignore[union-attr]
        nn.init.normal_(conv.weight, std=std)
        nn.init.constant_(conv.bias, bias)
    return network.eval()


def test_the_exported_file_is_certified(tmp_path: Path):
    network = filtered()
    certificate = export_onnx(
        network, tmp_path / "model.onnx", output="one2one", postprocess=POSTPROCESS, input_hw=HW, images=pictures(),
        classes=CLASSES, runs=2, log=lambda line: None,
    )
    assert (tmp_path / "model.onnx").is_file()
    # Five levels have 8 ordered pairs of neighbors, each resized once; the pyramid itself resizes two maps.
    assert certificate.ops["Resize"] == 8 + 2
    assert certificate.ops["MaxPool"] == 5
    assert "NonMaxSuppression" not in certificate.ops
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [o.name for o in graph.output] == ["boxes", "scores", "labels"]


def test_the_filter_decides_scores_in_the_program():
    network = filtered()
    images = torch.stack([p[:, :60, :60] for p in pictures(2)])
    images = nn.functional.pad(images, (0, HW[1] - 60, 0, HW[0] - 60))
    with torch.no_grad():
        _, scores, _ = Program(network, "one2one", POSTPROCESS)(images)
        output = network(images)["one2one"]
        unfiltered = output.before_filter().logits.sigmoid().flatten(1).amax(1)
    assert (scores[:, 0] < unfiltered).all()
    torch.testing.assert_close(scores[:, 0], output.logits.sigmoid().flatten(1).amax(1))
