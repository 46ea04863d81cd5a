"""Parameters and multiply-accumulates of DATE's Table 1, to the integer."""

from __future__ import annotations

import pytest

from bifocals.evaluate.cost import cost
from bifocals.networks import Backbone, Towers, prune
from bifocals.recipes import date, fcos, onenet

R101 = {"backbone": Backbone("resnet101")}


@pytest.mark.parametrize(
    ("experiment", "output", "trainable", "parameters", "conv_macs", "macs"),
    [
        (onenet(), None, 32_017_497, 32_293_017, 199.719, 200.50),
        (date(), "one2one", 32_017_497, 32_293_017, 199.719, 200.50),
        (fcos(), None, 32_019_802, 32_295_322, 199.768, 200.55),
        (date(), None, 32_213_422, 32_488_942, 203.896, 204.68),
        (date(**R101), "one2one", 50_957_401, 51_285_145, 275.479, 276.57),
    ],
    ids=["onenet", "date shipped", "fcos", "date in training", "date R101 shipped"],
)
def test_table_1(experiment, output, trainable, parameters, conv_macs, macs):
    def build():
        network = experiment.network(80)
        return network if output is None else prune(network, output)

    total = cost(build, (800, 1280)).total
    assert (total.trainable, total.parameters) == (trainable, parameters)
    assert total.conv_macs / 1e9 == pytest.approx(conv_macs, abs=1e-3)
    assert total.macs / 1e9 == pytest.approx(macs, abs=5e-3)


def test_the_parts_are_those_of_the_paper():
    parts = cost(lambda: date().network(80), (800, 1280)).parts
    assert parts["backbone"].trainable == 23_232_512
    assert parts["backbone"].parameters - parts["backbone"].trainable == 275_520
    assert parts["neck"].parameters == 3_868_672
    assert parts["head.cls_towers"].parameters + parts["head.box_towers"].parameters == 4_722_688
    assert parts["head.predictors.one2one"].parameters == 184_400 + 9_220
    assert parts["head.predictors.one2many"].parameters == 184_400 + 9_220 + 2_305
    assert parts["head.scales"].parameters == 5


def test_a_class_count_and_size_of_ones_own():
    small = cost(lambda: onenet().network(1), (800, 1280)).total
    assert small.trainable == 31_835_402  # CrowdHuman's one class
    assert small.conv_macs / 1e9 == pytest.approx(195.837, abs=1e-3)


def test_unshared_towers_cost_another_pair():
    shared = cost(lambda: date().network(80), (800, 1280)).total
    apart = cost(lambda: date(towers=Towers(shared=False)).network(80), (800, 1280)).total
    assert apart.parameters - shared.parameters == 4_722_688
