"""A one-to-one detector that starts from a trained FCOS, as in DATE's Figure 3 and Table 11."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bifocals.data import Data, Input
from bifocals.networks import Backbone, Towers
from bifocals.recipes import defcn, fcos, onenet
from bifocals.train import Optim, Provenance, Run, fit, load
from bifocals.train.checkpoint import list_checkpoints
from tests.train.scenario import draw_set


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=4, val=2)


def settings(data: Data, epochs: float = 1) -> dict:
    return {"backbone": Backbone("resnet18", "pytorch", "none"), "towers": Towers(64, 1), "data": data,
            "input": Input(64, 64, augment="none"), "epochs": epochs,
            "optim": Optim(lr=1e-3, batch_size=4, warmup_steps=0)}


def train(recipe, arguments: dict, workdir: Path, resume: str = "no") -> Path:
    run = Run(str(workdir), workers=0, eval_every=0, device="cpu", resume=resume)
    name = recipe.__name__
    return fit(recipe(**arguments), run, Provenance(f"bifocals.recipes.{name}:{name}", arguments))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """One step is enough: batch norms and weights are no longer those of any other seed."""
    arguments = settings(data)
    run = Run(str(tmp_path_factory.mktemp("fcos") / "run"), workers=0, seed=5, device="cpu")
    return fit(fcos(**arguments), run, Provenance("bifocals.recipes.fcos:fcos", arguments))


def weights_of(workdir: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(workdir)[-1][1] / "model.safetensors")


@pytest.mark.parametrize("recipe", [onenet, defcn])
def test_body_pyramid_and_towers_are_copied(recipe, data, trained):
    experiment = recipe(**settings(data), init=str(trained))
    network, fresh = experiment.network(2), experiment.network(2)
    fresh.load_state_dict(network.state_dict())
    said = experiment.start(network)
    theirs, mine = load(trained).network.state_dict(), network.state_dict()
    shared = {n for n in mine if n.startswith(("backbone.", "neck.", "head.cls_towers.", "head.box_towers."))}
    extra = {n for n in shared if n not in theirs}  # DeFCN's towers have biases
    assert extra == ({"head.cls_towers.shared.layers.0.bias", "head.box_towers.shared.layers.0.bias"}
                     if recipe is defcn else set())
    for name in mine:
        copied = name in shared - extra and "num_batches" not in name
        expected = theirs[name] if copied else fresh.state_dict()[name]
        assert torch.equal(mine[name], expected), name
    assert not torch.equal(mine["neck.pyramid.inner_blocks.0.0.weight"],
                           fresh.state_dict()["neck.pyramid.inner_blocks.0.0.weight"])
    assert "copied backbone 100, neck 16, head.cls_towers 3" in said
    assert "head.predictors (" in said and "head.scales (1)" in said
    # The body is a trained one now, so what the recipe freezes is frozen.
    assert not any(p.requires_grad for p in network.backbone.stages[:2].parameters())


def test_a_resumed_run_does_not_need_the_source(data, trained, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    straight = train(onenet, settings(data, 2) | {"init": str(source)}, tmp_path / "straight")
    folder = tmp_path / "run"
    arguments = settings(data, 2) | {"init": str(source)}
    train(onenet, arguments, folder)
    # As if it had been killed in between: the checkpoint after the first of two steps is the last one.
    (first, _), (last, after) = list_checkpoints(folder)
    assert (first, last) == (1, 2)
    shutil.rmtree(after)
    shutil.rmtree(source)
    train(onenet, arguments, folder, resume="auto")
    for name, tensor in weights_of(folder).items():
        assert torch.equal(tensor, weights_of(straight)[name]), name
    assert load(folder).step == 2  # nor does inference


def test_a_wrong_source_leaves_no_run_behind(data, trained, tmp_path):
    with pytest.raises(ValueError, match="--init expected a work directory, .* got 'nowhere', where there is nothing"):
        train(onenet, settings(data) | {"init": "nowhere"}, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
    workdir = train(onenet, settings(data) | {"init": str(trained)}, tmp_path / "run")
    assert json.loads((workdir / "run.json").read_text())["arguments"]["init"] == str(trained)


def test_other_bodies_and_styles_are_named(data, trained):
    arguments = settings(data) | {"init": str(trained)}
    other = onenet(**arguments | {"backbone": Backbone("resnet34", "pytorch", "none")})
    with pytest.raises(ValueError, match="expected the backbone of this network, got another one"):
        other.start(other.network(2))
    caffe = onenet(**arguments | {"backbone": Backbone("resnet18", "caffe", "none")})
    with pytest.raises(ValueError, match="--init expected a run with backbone style 'caffe', got 'pytorch' in .*"
                                         "--backbone.style pytorch goes on with it"):
        caffe.start(caffe.network(2))
    deeper = onenet(**arguments | {"towers": Towers(64, 2)})
    said = deeper.start(deeper.network(2))
    assert "head.cls_towers 3 of 6" in said
