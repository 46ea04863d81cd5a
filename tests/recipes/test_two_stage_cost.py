"""Parameters of the two-stage detectors and of mmdetection's RetinaNet, to the integer, and the work of each stage."""

from __future__ import annotations

import pytest

from bifocals.cli.cost import run
from bifocals.evaluate.cost import cost
from bifocals.networks import Backbone, Towers
from bifocals.recipes import faster_rcnn, retinanet
from bifocals.recipes.retinanet import RetinaHead

SIZE = (320, 320)


@pytest.mark.parametrize(("num_classes", "parameters"), [(20, 41_445_556), (80, 41_753_056)])
def test_faster_rcnn(num_classes: int, parameters: int):
    counted = cost(lambda: faster_rcnn().network(num_classes), SIZE)
    assert counted.total.parameters == parameters
    parts = {name: part.parameters for name, part in counted.parts.items()}
    box_head = 12544 * 1024 + 1024 + 1024 * 1024 + 1024 + 1025 * (num_classes + 1) + 1025 * 4 * num_classes
    assert parts == {"backbone": 23_508_032, "neck": 3_344_384, "rpn": 593_935, "roi": box_head}


def test_retinanet_as_mmdetection_has_it():
    network = retinanet(RetinaHead(scales=False), extra="c5", relu_before_p7=False, towers=Towers(norm="none"))
    counted = cost(lambda: network.network(20), SIZE)
    assert counted.total.parameters == 36_723_992
    assert counted.parts["neck"].parameters == 7_997_440
    heads = [part.parameters for name, part in counted.parts.items() if name.startswith("head")]
    assert sum(heads) == 5_218_520


def test_the_second_stage_is_counted_for_a_thousand_regions():
    parts = cost(lambda: faster_rcnn().network(20), SIZE).parts
    macs = 12544 * 1024 + 1024 * 1024 + 1024 * 21 + 1024 * 80
    assert parts["roi"].macs == 1000 * (macs + 1024 + 1024 + 21 + 80)  # with its biases
    pixels = sum((320 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    assert parts["rpn"].conv_macs == pixels * (256 * 256 * 9 + 256 * 15)
    few = cost(lambda: faster_rcnn(channels=64, backbone=Backbone("resnet18")).network(2), SIZE)
    assert few.parts["roi"].parameters == (64 * 49 + 1) * 1024 + 1025 * 1024 + 1025 * (3 + 8)


def test_the_command_says_for_how_many(capsys):
    assert run(["faster_rcnn", "--num-classes", "20", "--input-hw", "320", "320", "--rpn.proposals", "300"]) == 0
    told = capsys.readouterr().out
    assert "300 regions" in told and "41,445,556" in told
