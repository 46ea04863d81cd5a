"""A trained DATE run with ATSS beside: evaluated at several sizes, and beyond AP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bifocals.cli.main import main
from bifocals.cli.options import parse_views
from bifocals.data import Input, save_scenes

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("analysis")
    save_scenes(made / "data", train=4, val=4, hw=(SIZE, SIZE), seed=3)
    code = main([
        "train", "date", "--one2many", "atss", "--data.root", str(made / "data"), "--backbone.name", "resnet18",
        "--backbone.style", "pytorch", "--backbone.weights", "none", "--towers.channels", "64", "--towers.depth", "1",
        "--input.short", str(SIZE), "--input.long", str(SIZE), "--epochs", "2", "--optim.batch-size", "4",
        "--optim.lr", "2e-3", "--run.workers", "0", "--run.eval-every", "0", "--run.workdir", str(made / "run"),
    ])  # fmt: skip
    assert code == 0
    return made


def evaluated(folder: Path, *options: str) -> int:
    return main(["evaluate", str(folder / "run"), "--split", "val", "--workers", "0", *options])


def test_analysis_is_printed_and_saved(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluated(folder, "--output", "one2many", "--analysis") == 0
    text = capsys.readouterr().out
    record = json.loads((folder / "run" / "evaluation-val-one2many-default.json").read_text(encoding="utf8"))
    assert set(record["analysis"]) == {"before_nms", "errors"}
    before = record["analysis"]["before_nms"]
    assert before["nms"] == 0.6 and len(before["nms_recall"]) == 9 and before["objects"] > 4
    assert record["analysis"]["errors"]["mean"]["C50"] == pytest.approx(record["AP50"], abs=1e-9)
    assert "C75" in text and "NMS-recall at NMS 0.6" in text and "rank correlation" in text
    table = text[text.index("4 images, output one2many"):text.index("saved ")].splitlines()
    assert max(map(len, table)) <= 100


def test_several_sizes(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert evaluated(folder, "--tta", "--tta-flip") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "output one2one, NMS 0.6" in text and "NMS-free" not in text
    assert "6 scales (39, 52, 64, 77, 90, 103), mirrored too: NMS 0.6 merges what they find" in text
    record = json.loads((folder / "run" / "evaluation-val-one2one-default-tta.json").read_text(encoding="utf8"))
    assert record["nms"] == 0.6 and record["trust"] is None and record["num_images"] == 4

    # One look of the run's own size is the plain test with NMS.
    assert evaluated(folder, "--output", "one2many", "--tta-shorts", str(SIZE)) == 0
    assert evaluated(folder, "--output", "one2many") == 0
    one, plain = (json.loads((folder / "run" / f"evaluation-val-one2many-default{end}.json").read_text(encoding="utf8"))
                  for end in ("-tta", ""))
    assert [one[name] for name in ("AP", "AP50", "AR100")] == [plain[name] for name in ("AP", "AP50", "AR100")]


def test_predict_at_several_sizes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pictures = folder / "data" / "val"
    pictures = pictures if pictures.is_dir() else folder / "data"
    argv = ["predict", str(folder / "run"), str(pictures), "--out", str(tmp_path / "out"), "--tta-shorts", "48", "64"]
    assert main(argv) == 0
    assert "NMS 0.6 merged the 2 sizes; a single look at this output needs none" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out" / "images.json").read_text(encoding="utf8"))["images"]) >= 4


def test_options_and_errors(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert parse_views(Input(), False, (), False) is None
    assert len(parse_views(Input(), False, (), True).sizes) == 6
    assert parse_views(Input(), False, (480, 960), False).sizes == ((480, 800), (960, 1600))
    assert evaluated(folder, "--tta", "--analysis") == 1
    assert "views or analysis, got both" in capsys.readouterr().err
    assert evaluated(folder, "--tta-shorts", "0") == 1
    assert "multi_scale expected at least one scale" in capsys.readouterr().err
