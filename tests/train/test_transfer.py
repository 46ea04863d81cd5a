"""Copying parts of a trained network: what is read, what is copied, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bifocals.train import DamagedCheckpoint, Source, copy_weights, read_source
from bifocals.train.checkpoint import save_checkpoint
from bifocals.train.weights import save_best, to_bytes

PARTS = ("body", "neck")


def network(seed: int, neck: int = 3, body: int = 2) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({
        "body": nn.Sequential(nn.Conv2d(3, body, 1), nn.BatchNorm2d(body)),
        "neck": nn.Sequential(nn.Conv2d(body, neck, 1), nn.Conv2d(neck, neck, 1, bias=False)),
        "head": nn.ModuleDict({"cls": nn.Linear(3, 2)}),
    })


def source(made: nn.Module) -> Source:
    return Source(dict(made.state_dict()), "there")


def same(a: nn.Module, b: nn.Module, prefix: str) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items() if n.startswith(prefix))


def test_the_parts_are_copied_and_nothing_else():
    ours, theirs = network(0), network(1)
    theirs["body"][1].running_mean.fill_(5.0)
    assert copy_weights(ours, source(theirs), PARTS, whole=("body",)) == (
        "init: copied body 6, neck 3 tensors from there; left as built: head.cls (2).")
    assert same(ours, theirs, "body") and same(ours, theirs, "neck")
    assert not same(ours, theirs, "head")


def test_what_does_not_agree_is_left_and_said():
    ours, theirs = network(0, neck=4), network(1)
    before = {n: t.clone() for n, t in ours.state_dict().items()}
    said = copy_weights(ours, source(theirs), PARTS)
    assert "copied body 6, neck 0 of 3 tensors" in said
    assert "left as built: head.cls (2), neck.0 (2), neck.1 (1)" in said
    assert "not the same there: neck.0.bias is [3] there and [4] here" in said
    assert all(torch.equal(before[n], t) for n, t in ours.state_dict().items() if n.startswith("neck"))
    shorter = {n: t for n, t in theirs.state_dict().items() if n != "neck.1.weight"}
    said = copy_weights(network(0), Source(shorter, "there"), PARTS)
    assert "neck 2 of 3" in said and "neck.1.weight is missing there" in said


def test_a_body_is_taken_whole_or_not_at_all():
    with pytest.raises(ValueError, match=r"--init expected the body of this network, got another one in there: "
                                         r"body.0.bias is \[3\] there and \[2\] here\."):
        copy_weights(network(0), source(network(1, body=3)), PARTS, whole=("body",))
    larger = dict(network(1).state_dict()) | {"body.2.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="body.2.weight is missing here"):
        copy_weights(network(0), Source(larger, "there"), PARTS, whole=("body",))
    # How many batches a norm has seen may be missing.
    bare = {n: t for n, t in network(1).state_dict().items() if "num_batches" not in n}
    copy_weights(network(0), Source(bare, "there"), PARTS, whole=("body",))


def test_nothing_in_common_is_an_error():
    with pytest.raises(ValueError, match="--init expected tensors of body, neck as this network has them, got none in "
                                         "there, which has other.weight"):
        copy_weights(network(0), Source({"other.weight": torch.zeros(1)}, "there"), PARTS)


def write_run(folder: Path, seed: int, ema: int | None = None, best: int | None = None) -> Path:
    files = {"model.safetensors": to_bytes(network(seed).state_dict()), "state.json": json.dumps({"step": 7}).encode()}
    if ema is not None:
        files["ema.safetensors"] = to_bytes(network(ema).state_dict())
    save_checkpoint(folder, 7, files)
    if best is not None:
        save_best(folder, network(best), {"step": "3"})
    (folder / "run.json").write_text(json.dumps({"arguments": {"epochs": 2}}))
    return folder


def test_sources(tmp_path):
    run = write_run(tmp_path / "run", seed=1)
    found = read_source(run)
    assert torch.equal(found.tensors["head.cls.weight"], network(1).state_dict()["head.cls.weight"])
    assert found.origin.endswith("step-00000007/model.safetensors, of step 7")
    assert found.arguments == {"epochs": 2}
    assert "ema.safetensors" in read_source(write_run(tmp_path / "ema", seed=1, ema=2)).origin
    judged = write_run(tmp_path / "judged", seed=1, ema=2, best=3)
    found = read_source(judged)
    assert "best weights, of step 3" in found.origin
    assert torch.equal(found.tensors["neck.0.bias"], network(3).state_dict()["neck.0.bias"])
    found = read_source(judged / "checkpoints" / "step-00000007")
    assert torch.equal(found.tensors["neck.0.bias"], network(2).state_dict()["neck.0.bias"])
    assert found.arguments == {"epochs": 2}
    save_file(network(4).state_dict(), tmp_path / "alone.safetensors")
    torch.save({"state_dict": network(4).state_dict()}, tmp_path / "alone.pth")
    for name in ("alone.safetensors", "alone.pth"):
        found = read_source(str(tmp_path / name))
        assert torch.equal(found.tensors["neck.0.bias"], network(4).state_dict()["neck.0.bias"])
        assert found.arguments == {}


def test_paths_without_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--init expected a work directory, a checkpoint or a file of weights, got "
                                         r"'.*nowhere', where there is nothing"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a work directory with run.json"):
        read_source(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a run with weights, got .* which has not saved any yet"):
        read_source(tmp_path)
    for name in ("text.safetensors", "text.pth"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=f"got .*{name}, which cannot be read as one"):
            read_source(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a file of tensors by name, got .*list.pth"):
        read_source(tmp_path / "list.pth")
    run = write_run(tmp_path / "run", seed=1)
    (run / "checkpoints" / "step-00000007" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedCheckpoint):
        read_source(run)
