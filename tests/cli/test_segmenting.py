"""One journey of a segmenter over all commands: draw, check, train, evaluate, predict, export, load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bifocals import load
from bifocals.cli.main import main
from bifocals.data import read_image, save_streets
from bifocals.data.synthetic_streets import STREETS
from bifocals.export import OnnxSegmenter


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    save_streets(folder / "data", train=8, val=3, hw=(64, 96), seed=3)
    assert main(["check", "dataset", str(folder / "data")]) == 0
    code = main([
        "train", "bisenet", "--preset", "own", "--data.root", str(folder / "data"), "--backbone.weights", "none",
        "--input.crop-hw", "64", "96", "--input.factor", "0.5", "--head-width", "32", "--no-spatial-path",
        "--epochs", "1", "--optim.batch-size", "4", "--run.workers", "0", "--run.log-every", "1",
        "--run.workdir", str(folder / "run"),
    ])  # fmt: skip
    assert code == 0
    return folder


def test_the_work_directory_tells_what_happened(trained: Path):
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["classes"] == list(STREETS)
    assert record["palette"] == [list(color) for color in STREETS.values()]
    assert record["results"]["best"]["step"] == 2
    assert 0 <= record["results"]["best"]["mIoU"] <= 1
    lines = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    assert set(lines[0]["raw"]) == {"main/pixel", "aux16/pixel", "aux32/pixel"}


def test_evaluate(trained: Path, capsys):
    assert main(["evaluate", str(trained / "run"), "--split", "val", "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "pixel accuracy" in printed
    found = json.loads((trained / "run" / "evaluation-val-main.json").read_text())
    assert set(found["classes"]) == set(STREETS)
    assert f"{found['mIoU']:.4f}".removeprefix("0") in printed

    assert main(["evaluate", str(trained / "run"), "--split", "val", "--workers", "0", "--tta-scales", "1", "1.5",
                 "--tta-flip"]) == 0  # fmt: skip
    assert json.loads((trained / "run" / "evaluation-val-main-tta.json").read_text())["views"] == (
        "2 scales (1, 1.5), mirrored too")


def test_options_of_detectors_are_refused(trained: Path, capsys):
    assert main(["evaluate", str(trained / "run"), "--split", "val", "--nms", "0.6", "--crowd"]) == 1
    assert "expected options for the task 'segment'" in (printed := capsys.readouterr().err)
    assert "--nms, --crowd" in printed


def test_predict(trained: Path, tmp_path: Path, capsys):
    out = tmp_path / "found"
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    pictures = trained / "data" / "images" / "val"
    assert main(["predict", str(trained / "run"), str(pictures), str(tmp_path / "broken.jpg"), "--out", str(out)]) == 0
    assert "3 pictures painted, 1 files skipped" in capsys.readouterr().out
    names = sorted(p.stem for p in pictures.iterdir())
    assert sorted(p.stem for p in (out / "pictures").iterdir()) == names
    with Image.open(out / "maps" / f"{names[0]}.png") as drawn:
        assert drawn.mode == "P"
        assert drawn.size == (96, 64)
        assert int(np.array(drawn).max()) < len(STREETS)
        assert drawn.getpalette()[:3] == list(next(iter(STREETS.values())))
    with Image.open(out / "pictures" / f"{names[0]}.jpg") as painted:
        assert painted.height > 64  # the legend


@pytest.mark.parametrize("argmax", [False, True])
def test_export_and_load(trained: Path, argmax: bool, tmp_path: Path):
    file = tmp_path / "main.onnx"
    assert main(["export", str(trained / "run"), "--out", str(file), *(["--argmax"] if argmax else [])]) == 0
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert abs(certificate["miou"]["after"] - certificate["miou"]["before"]) < 1e-3
    image = read_image(next((trained / "data" / "images" / "val").iterdir()))
    labels = OnnxSegmenter(file)([image])[0]
    assert labels.shape == (64, 96)
    assert labels.dtype == torch.uint8
    again = load(trained / "run")
    assert again.experiment.task == "segment"
