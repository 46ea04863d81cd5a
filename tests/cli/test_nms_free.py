"""A trained DATE run that is asked whether it may ship without NMS, and shipped both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from bifocals import load
from bifocals.cli.main import main
from bifocals.data import Input, save_scenes
from bifocals.export import export_onnx
from bifocals.networks import Backbone, DenseDetector, Towers, prune
from bifocals.recipes import onenet

SIZE = 64
EXPORT = ["--split", "val", "--ap-images", "2", "--input-hw", str(SIZE), str(SIZE)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("free")
    save_scenes(folder / "data", train=8, val=22, hw=(SIZE, SIZE), seed=3)
    code = main([
        "train", "date", "--data.root", str(folder / "data"), "--backbone.name", "resnet18",
        "--backbone.style", "pytorch", "--backbone.weights", "none", "--towers.channels", "64", "--towers.depth", "1",
        "--input.short", str(SIZE), "--input.long", str(SIZE), "--epochs", "10", "--optim.batch-size", "4",
        "--optim.lr", "2e-3", "--run.workers", "0", "--run.eval-every", "0", "--run.workdir", str(folder / "run"),
    ])  # fmt: skip
    assert code == 0
    return folder / "run"


def evaluated(workdir: Path, *options: str) -> dict[str, Any]:
    path = workdir / "asked.json"
    assert main(["evaluate", str(workdir), "--split", "val", "--workers", "0", "--save", str(path), *options]) == 0
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return record


def test_evaluate_ends_in_a_verdict_with_the_numbers_behind_it(workdir: Path, capsys: pytest.CaptureFixture[str]):
    record = evaluated(workdir)
    text = capsys.readouterr().out
    trust = record["trust"]
    assert trust["sentence"] in " ".join(text.split())
    assert trust["verdict"] == "cannot tell"  # twenty steps: it finds next to nothing
    assert "NMS-free not yet: the network is too weak to tell" in text
    assert (trust["images"], trust["resamples"], trust["margin"]) == (22, 1000, 0.005)
    assert (record["other"]["output"], record["other"]["nms"]) == ("one2many", 0.5)
    assert trust["deficit"]["value"] == pytest.approx(record["other"]["AP"] - record["AP"], abs=1e-12)
    assert trust["gain"]["value"] == pytest.approx(record["with_nms"]["AP"] - record["AP"], abs=1e-12)
    for row in ("AP without NMS ", "AP with NMS 0.6 ", "AP one2many, NMS 0.5 "):
        assert row in text
    table = text[text.index("22 images, output one2one"):text.index("saved ")].splitlines()
    assert max(map(len, table)) <= 100

    twin = evaluated(workdir, "--output", "one2many")
    assert {name: twin[name] for name in ("AP", "AP50", "AR100")} == {
        name: record["other"][name] for name in ("AP", "AP50", "AR100")
    }
    assert twin["trust"] is None and twin["with_nms"] is None
    assert "network and postprocess" in twin["protocol"]  # timed without the one-to-one branch
    assert "network with its outputs one2one and one2many" in record["protocol"]


def test_pascal_voc(workdir: Path, capsys: pytest.CaptureFixture[str]):
    record = evaluated(workdir, "--voc")
    assert list(record["voc"]) == ["without NMS", "with NMS 0.6", "one2many, NMS 0.5"]
    text = capsys.readouterr().out
    for name, numbers in record["voc"].items():
        assert set(numbers) == {"match", "11point", "area", "per_class"}
        assert 0 <= numbers["area"] <= 1
        assert list(numbers["per_class"]) == ["disc", "box", "triangle"]
        assert f"{name}: VOC AP, IoU 0.5" in text
    assert "voc" not in evaluated(workdir)


def test_crowds(workdir: Path, capsys: pytest.CaptureFixture[str]):
    record = evaluated(workdir, "--crowd", "--max-detections", "250")
    assert record["max_detections"] == 250
    assert list(record["crowd"]) == ["without NMS", "with NMS 0.6", "one2many, NMS 0.5"]
    few = evaluated(workdir, "--crowd", "--max-detections", "5")
    for name, numbers in record["crowd"].items():
        assert set(numbers) == {"ap50", "mmr", "recall", "jaccard"}
        assert numbers["recall"] > few["crowd"][name]["recall"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["CrowdHuman", "AP50", "mMR", "recall", "JI"] in lines
    assert [f"{record['crowd']['without NMS'][k]:.4f}" for k in ("ap50", "mmr", "recall", "jaccard")] in [
        line[2:] for line in lines
    ]
    assert main(["evaluate", str(workdir), "--split", "val", "--max-detections", "0"]) == 1
    assert "max_detections of at least 1, got 0" in capsys.readouterr().err


def content(path: Path) -> tuple[list[str], dict[str, bytes]]:
    """Operators in order, and the bytes of each initializer by name."""
    graph = onnx.load(path).graph
    return [node.op_type for node in graph.node], {i.name: onnx.numpy_helper.to_array(i).tobytes()
                                                   for i in graph.initializer}


def test_both_outputs_are_shipped_from_one_run(workdir: Path, tmp_path: Path):
    for output, name in (("one2one", "certificate.json"), ("one2many", "one2many.certificate.json")):
        path = tmp_path / f"{output}.onnx"
        assert main(["export", str(workdir), "--output", output, "--out", str(path), *EXPORT]) == 0
        certificate = json.loads((tmp_path / name).read_text(encoding="utf8"))
        assert certificate["file"] == path.name
        assert certificate["metadata"]["output"] == output
        assert certificate["ops"].get("NonMaxSuppression", 0) == (output == "one2many")
        assert certificate["metadata"]["nms"] == (0.5 if output == "one2many" else None)
        assert all(one["unpaired"] == 0 and one["compared"] > 0 for one in certificate["parity"].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "certificate.json", "one2many.certificate.json", "one2many.onnx", "one2one.onnx",
    ]  # fmt: skip

    # The shipped file is the one of a OneNet with the same weights: nothing of the other branch is left.
    trained = load(workdir)
    assert isinstance(trained.network, DenseDetector)
    pruned = prune(trained.network, "one2one")
    experiment = onenet(backbone=Backbone("resnet18", "pytorch", weights="none"), towers=Towers(64, 1),
                        input=Input(SIZE, SIZE))
    alone = experiment.network(len(trained.classes)).eval()
    alone.load_state_dict(pruned.state_dict())  # strict: the same names, no more and no less
    image = torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8)
    export_onnx(
        alone, tmp_path / "onenet.onnx", output="one2one", postprocess=experiment.postprocess["one2one"],
        input_hw=(SIZE, SIZE), images=[image], classes=trained.classes, input=Input(SIZE, SIZE), runs=1,
        log=lambda line: None,
    )
    shipped, reference, twin = (content(tmp_path / f"{n}.onnx") for n in ("one2one", "onenet", "one2many"))
    assert shipped == reference
    assert not any("one2many" in name for name in shipped[1])
    assert any("one2many" in name for name in twin[1]) and not any("one2one" in name for name in twin[1])
    assert not any("one2many" in name for name in pruned.state_dict())


def test_a_pruned_output_is_the_same_bit_for_bit(workdir: Path):
    network = load(workdir).network
    assert isinstance(network, DenseDetector)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        whole = network(images)
        for name in ("one2one", "one2many"):
            alone = prune(network, name)(images)
            assert list(alone) == [name]
            assert torch.equal(alone[name].logits, whole[name].logits)
            assert torch.equal(alone[name].boxes, whole[name].boxes)
