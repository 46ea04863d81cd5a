"""The recipe of BiSeNet: its costs to the figures, its presets, and that it learns streets by heart."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bifocals.data import Data, MapInput, map_eval_transform, open_maps
from bifocals.evaluate import evaluate_maps
from bifocals.evaluate.cost import cost
from bifocals.losses import OHEM, Dice, PixelCE
from bifocals.networks import Backbone, BiSeNet, prune
from bifocals.recipes import bisenet
from bifocals.recipes.bisenet import pixel_losses
from bifocals.train import Optim, Provenance, Run, build_optimizer, fit, load, read_log
from bifocals.train.checkpoint import list_checkpoints
from tests.recipes.street import CLASSES, save_streets

THIN = Backbone("mobilenet_v2", "pytorch", "none", frozen_stages=-1, norm="train")


@pytest.mark.parametrize(("input_hw", "gmacs"), [
    ((768, 1536), 66.57), ((1024, 2048), 118.3), ((640, 640), 23.11), ((512, 512), 14.79),
])
def test_costs_of_the_full_network(input_hw: tuple[int, int], gmacs: float):
    """MoSegNAS's method sheet: BiSeNet-R18 with 19 classes, as it is shipped."""
    total = cost(lambda: prune(bisenet().network(19), "main"), input_hw).total
    assert total.parameters == 13_275_539
    assert total.parameters / 1e6 == pytest.approx(13.28, rel=0.005)
    assert total.conv_macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


def test_the_parts_of_its_costs():
    parts = cost(lambda: bisenet().network(19), (768, 1536)).parts
    assert list(parts) == ["backbone", "context", "spatial", "head.fusion", "head.main", "head.aux16", "head.aux32"]
    assert parts["backbone"].parameters == 11_176_512  # torchvision's ResNet-18 without its classifier
    assert parts["head.aux16"].parameters == 128 * 64 * 9 + 2 * 64 + 64 * 19 + 19
    assert parts["head.aux16"].macs == 0  # evaluation does without
    slim = cost(lambda: bisenet(spatial_path=False, head_width=64, aux=0).network(19), (768, 1536))
    assert set(slim.parts) == {"backbone", "context", "head.main"}
    # Spatial path, fusion and a head of 256 are what keeps a network from 35 or 42 GMACs (section 1.4 of the sheet).
    full = cost(lambda: bisenet().network(19), (768, 1536)).total
    decoder = (full.conv_macs - slim.total.conv_macs) / 1e9
    assert decoder == pytest.approx(49.77 - 32.66, abs=5e-3)  # the difference of its table, whatever the body


def test_presets_fill_in_what_was_not_said():
    assert bisenet().input == MapInput(crop_hw=(768, 1536))
    assert bisenet().epochs * 2975 / 16 == pytest.approx(40_000)
    assert bisenet("voc").input.crop_hw == (512, 512) and bisenet("cocostuff").input.crop_hw == (640, 640)
    assert bisenet("camvid").input.crop_hw == (360, 480)
    assert bisenet("camvid", input=MapInput(0.5)).input == MapInput(0.5, crop_hw=(180, 240))
    mine = bisenet("voc", input=MapInput(flip=False, scales=(1.0,)), epochs=3)
    assert (mine.input, mine.epochs) == (MapInput(flip=False, scales=(1.0,), crop_hw=(512, 512)), 3)
    assert bisenet("own", input=MapInput(crop_hw=(64, 96))).input.crop_hw == (64, 96)
    assert bisenet().task == "segment" and bisenet().output == "main"


def test_branches_and_losses_follow_the_arguments():
    objective = bisenet(aux=0.2).objective()
    assert {n: (b.stride, b.weight) for n, b in objective.branches.items()} == {
        "main": (8, 1.0), "aux16": (8, 0.2), "aux32": (16, 0.2)}
    assert list(bisenet(aux=0).objective().branches) == ["main"]
    assert list(bisenet(aux=0).network(3).head) == ["fusion", "main"]
    assert pixel_losses("ohem") == {"pixel": OHEM()}
    assert pixel_losses("ce+dice") == {"pixel": PixelCE(), "dice": Dice()}
    for wrong, message in (({"preset": "kitti"}, "knows the presets"), ({"loss": "ohem+ce"}, "knows the losses"),
                           ({"aux": -1.0}, "0 or more for aux")):
        with pytest.raises(ValueError, match=message):
            bisenet(**wrong)


def test_heads_learn_ten_times_faster_and_norms_do_not_decay():
    network = bisenet(backbone=THIN).network(4)
    groups = {(g["base_lr"], g["weight_decay"]): g["params"] for g in
              build_optimizer(network, bisenet().optim).param_groups}
    assert set(groups) == {(0.01, 5e-4), (0.01, 0.0), (0.1, 5e-4), (0.1, 0.0)}
    names = {p: n for n, p in network.named_parameters()}
    for (lr, decay), parameters in groups.items():
        for parameter in parameters:
            assert (lr == 0.1) == names[parameter].startswith("head."), names[parameter]
            assert (decay == 0) == (names[parameter].endswith("bias") or parameter.ndim == 1), names[parameter]


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    return save_streets(tmp_path_factory.mktemp("streets"))


def settings(folder: Path, steps: int) -> dict:
    return {
        "preset": "own", "head_width": 64, "backbone": THIN, "data": Data(str(folder)),
        "input": MapInput(scales=(1.0,), crop_hw=(64, 96), flip=False), "epochs": steps * 4 / 8,
        "optim": Optim("sgd", lr=0.02, batch_size=4, decay_norms=False, backbone_lr_factor=1.0, head_lr_factor=5.0,
                       clip_norm=5.0, schedule="poly", warmup_steps=5),
    }


def train(arguments: dict, workdir: Path, **options) -> Path:
    run = Run(str(workdir), workers=0, device="cpu", **{"log_every": 1} | options)
    return fit(bisenet(**arguments), run, Provenance("bifocals.recipes.bisenet:bisenet", arguments))


@pytest.fixture(scope="module")
def workdir(streets: Path, tmp_path_factory) -> Path:
    """Two steps in bfloat16, a checkpoint after each."""
    return train(settings(streets, steps=2), tmp_path_factory.mktemp("two") / "run", save_every=1, precision="bf16")


def test_a_resumed_run_is_the_same(workdir: Path, streets: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    (_, first), (_, last) = list_checkpoints(folder)
    expected = load_file(last / "model.safetensors")
    assert not torch.equal(load_file(first / "model.safetensors")["context.up16.bn.running_mean"],
                           expected["context.up16.bn.running_mean"])
    shutil.rmtree(last)  # as if it had been killed after the first step
    train(settings(streets, steps=2), folder, save_every=1, precision="bf16", resume="auto")
    again = load_file(last / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_two_steps_and_the_weights_into_another_run(workdir: Path, streets: Path):
    arguments = settings(streets, steps=2)
    steps = [r for r in read_log(workdir) if r["kind"] == "train"]
    assert [set(r["raw"]) for r in steps] == [{"main/pixel", "aux16/pixel", "aux32/pixel"}] * 2
    assert all(np.isfinite(list(r["raw"].values())).all() for r in steps)
    trained = load(workdir)
    assert trained.classes == CLASSES
    assert isinstance(trained.network, BiSeNet)
    other = bisenet(**arguments | {"init": str(workdir)})
    network = other.network(7)
    said = other.start(network)
    assert "head.fusion" in said and "head.main" in said.split("left as built")[1]
    mine, theirs = network.state_dict(), trained.network.state_dict()
    for name in ("context.whole.conv.weight", "spatial.layers.0.conv.weight", "head.fusion.attention.weight"):
        assert torch.equal(mine[name], theirs[name])
    assert mine["head.main.predict.weight"].shape[0] == 7


@pytest.mark.slow
def test_learns_by_heart(streets: Path, tmp_path: Path):
    arguments = settings(streets, steps=150)
    workdir = train(arguments, tmp_path / "run", eval_every=0, save_every=1000, log_every=10)
    trained = load(workdir, "last")
    experiment = trained.experiment
    found = evaluate_maps(
        trained.network, open_maps(experiment.data, "val", None), transform=map_eval_transform(experiment.input),
        postprocess=experiment.postprocess, output=experiment.output, batch_size=4,
    )
    assert found.score > 0.85, found.summary()
    half = replace(experiment.input, factor=0.5)
    smaller = evaluate_maps(
        trained.network, open_maps(experiment.data, "val", None), transform=map_eval_transform(half),
        postprocess=experiment.postprocess, output=experiment.output, batch_size=3,
    )
    assert torch.equal(smaller.confusion.counts.sum(1), found.confusion.counts.sum(1))
    assert smaller.score < found.score
