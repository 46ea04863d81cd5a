"""One journey over all commands: draw, check, train, evaluate, predict, export, load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from bifocals import load
from bifocals.cli.main import main
from bifocals.data import save_scenes
from bifocals.export import OnnxDetector


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("journey")
    save_scenes(folder / "data", train=16, val=6, hw=(64, 64), seed=3)
    code = main([
        "train", "date", "--data.root", str(folder / "data"), "--backbone.name", "resnet18",
        "--backbone.style", "pytorch", "--backbone.weights", "none", "--towers.channels", "64", "--towers.depth", "1",
        "--input.short", "64", "--input.long", "64", "--epochs", "1", "--optim.batch-size", "4", "--optim.lr", "1e-3",
        "--run.workers", "0", "--run.log-every", "2", "--run.workdir", str(folder / "run"),
    ])  # fmt: skip
    assert code == 0
    return folder


def test_the_work_directory_tells_what_happened(trained: Path):
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["recipe"] == "bifocals.recipes.date:date"
    assert record["argv"][:3] == ["bifocals", "train", "date"]
    assert record["arguments"]["towers"] == {"channels": 64, "depth": 1, "shared": True, "norm": "group",
                                             "deformable": False}
    assert record["results"]["step"] == 4
    lines = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    assert {"one2one/cls", "one2many/quality"} <= set(lines[0]["raw"])


def test_a_second_run_does_not_overwrite_the_first(trained: Path, capsys):
    argv = ["train", "date", "--data.root", str(trained / "data"), "--run.workdir", str(trained / "run")]
    assert main(argv) == 1
    assert "holds" in capsys.readouterr().err


@pytest.mark.parametrize(("output", "nms"), [("one2one", "none"), ("one2one", "0.6"), ("one2many", "default")])
def test_evaluate(trained: Path, output: str, nms: str, capsys):
    run = trained / "run"
    assert main(["evaluate", str(run), "--split", "val", "--output", output, "--nms", nms, "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "duplicate rate" in text and ("AP without NMS" in text) == (nms == "none")
    saved = json.loads((run / f"evaluation-val-{output}-{nms}.json").read_text())
    assert saved["num_images"] == 6 and "AP50" in saved


def test_evaluate_without_such_a_split_or_output(trained: Path, capsys):
    assert main(["evaluate", str(trained / "run"), "--split", "test"]) == 1
    assert "test" in capsys.readouterr().err
    assert main(["evaluate", str(trained / "run"), "--split", "val", "--output", "one2few"]) == 1
    assert "one2few" in capsys.readouterr().err


def test_predict(trained: Path, tmp_path: Path, capsys):
    pictures = trained / "data" / "val2017"
    (tmp_path / "broken.jpg").write_text("<html>")
    assert main(["predict", str(trained / "run"), str(pictures), str(tmp_path / "broken.jpg"), "--out",
                 str(tmp_path / "out"), "--score", "0.0"]) == 0
    assert "6 pictures" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results and set(results[0]) >= {"image_id", "category_id", "bbox", "score"}
    drawn = list((tmp_path / "out" / "pictures").iterdir())
    assert len(drawn) == 6
    with Image.open(drawn[0]) as picture:
        assert picture.size == (64, 64)


def test_export_and_load(trained: Path, capsys):
    run = trained / "run"
    assert main(["export", str(run), "--ap-images", "6"]) == 0
    certificate = json.loads((run / "certificate.json").read_text())
    assert "NonMaxSuppression" not in certificate["ops"]
    model, one = load(run), OnnxDetector(run / "one2one.onnx")
    assert one.classes == model.classes
    found = one([torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    assert len(found) == 1
    assert main(["export", str(run), "--output", "one2many", "--out", str(run / "twin.onnx"), "--ap-images", "6"]) == 0
    assert (run / "twin.onnx").is_file()
