"""A network that learned with depression exports as if it had none."""

from __future__ import annotations

import torch
from torch import nn

from bifocals.export.program import Program
from bifocals.networks import FPN, AnchorPredictor, DenseDetector, DenseHead, Depression, Depressor
from bifocals.predict import Postprocess
from tests.export.conftest import CLASSES, HW, TinyBody


def detector(hook: nn.Module | None) -> DenseDetector:
    torch.manual_seed(3)
    body = TinyBody()
    head = DenseHead({"one2many": AnchorPredictor(64, len(CLASSES))}, FPN.strides, 64, depth=1, groups=None,
                     scales=False)
    return DenseDetector(body, FPN(body.channels[1:], 64), head, hook)


def test_the_graph_is_that_of_a_plain_network():
    hook = Depressor(Depression("constant"))
    hook.set_step(3, 10)
    images, graphs = torch.zeros(1, 3, *HW, dtype=torch.uint8), []
    for network in (detector(hook), detector(None)):
        program = Program(network.eval(), "one2many", Postprocess(0.1, 100, 50)).eval()
        exported = torch.export.export(program, (images,))
        graphs.append([str(node.target) for node in exported.graph.nodes])
    assert graphs[0] == graphs[1]
    assert "aten.topk.default" in graphs[0]  # of the detections; depression would add one a level
