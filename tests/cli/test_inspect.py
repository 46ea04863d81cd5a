"""bifocals inspect assign: of a recipe and of a trained run, on drawn data; errors in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import bifocals.cli.main
from bifocals.cli.main import main
from bifocals.data import Annotations, load_coco, save_scenes
from bifocals.data.lookup import find_image
from bifocals.predict import class_color
from bifocals.train import load, load_objective

SIZE = 96
SMALL = (
    "--backbone.name", "resnet18", "--backbone.style", "pytorch", "--backbone.weights", "none",
    "--towers.channels", "64", "--towers.depth", "1", "--input.short", str(SIZE), "--input.long", str(SIZE),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set, and a run of two steps of HCRAL with EATSS on it."""
    made = tmp_path_factory.mktemp("inspect")
    save_scenes(made / "data", train=4, val=3, hw=(SIZE, SIZE), seed=5)
    code = main([
        "train", "hcral", "--host", "atss", "--eatss", "--data.root", str(made / "data"), *SMALL, "--epochs", "1",
        "--optim.batch-size", "2", "--optim.lr", "1e-3", "--run.workers", "0", "--run.eval-every", "0",
        "--run.workdir", str(made / "run"),
    ])  # fmt: skip
    assert code == 0
    return made


def annotations_of(folder: Path) -> Annotations:
    return load_coco(folder / "data" / "annotations" / "instances_val2017.json", folder / "data" / "val2017")


def picture_of(folder: Path, number: int = 1) -> str:
    return annotations_of(folder).files[number]


def inspected(folder: Path, *argv: str, number: int = 1) -> int:
    return main(["inspect", "assign", *argv, "--image", picture_of(folder, number)])


def test_a_trained_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    before = {file: file.read_bytes() for file in (folder / "run").rglob("*.safetensors")}
    assert inspected(folder, str(folder / "run")) == 0
    text = capsys.readouterr().out
    assert "one2many: EATSS" in text and "left out: eatss: it takes what one2many: EATSS takes" in text
    name = Path(picture_of(folder)).stem
    record = json.loads((folder / "run" / f"assign-{name}.json").read_text(encoding="utf8"))
    assert record["network"]["trained"] and record["network"]["step"] == 2
    assert "that of step 2" in record["network"]["state"]
    assert (record["split"], record["size_hw"]) == ("val", [SIZE, SIZE])
    assert [a["name"] for a in record["assigners"]] == ["one2many", "atss", "fcos", "poto"]
    own, atss = record["assigners"][:2]
    extras = {(p["prior"], p["object"]) for p in own["pairs"] if p["is_extra"]}
    every, plain = ({(p["prior"], p["object"]) for p in a["pairs"]} for a in (own, atss))
    assert extras == every - plain and len(extras) == own["counts"]["extras"] > 0
    assert {"beta", "omega", "RCI_cls", "CF_cls", "weight"} == set(own["pairs"][0]["weights"]["cls"])
    with Image.open(folder / "run" / f"assign-{name}.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    for entry in record["objects"]:
        assert class_color(entry["object"]) == tuple(bytes.fromhex(entry["color"][1:]))
        assert class_color(entry["object"]) in colors and entry["class"] in record["classes"]
    assert {file: file.read_bytes() for file in (folder / "run").rglob("*.safetensors")} == before


def test_the_state_of_the_losses_is_that_of_the_run(folder: Path):
    trained = load(folder / "run", say=lambda _: None)
    objective, sentence = load_objective(trained)
    fresh = trained.experiment.objective()
    assert not objective.training and "step 2" in sentence
    state, blank = objective.state_dict(), fresh.state_dict()
    assert set(state) == set(blank) and float(state["branches.one2many.stateful.cls.density.counts"].sum()) > 100
    assert any(not torch.equal(state[name], blank[name]) for name in state if "box" in name)


def test_a_recipe_with_a_fresh_network(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "deep" / "fcos.png"
    argv = ["fcos", "--data.root", str(folder / "data"), *SMALL, "--out", str(out), "--panel", "300"]
    assert inspected(folder, *argv, "--assigners", "own", "eatss", "max_iou") == 0
    text = capsys.readouterr().out
    assert "fresh network of seed 0" in text and "say little" in text
    first = out.with_suffix(".json").read_text(encoding="utf8")
    record = json.loads(first)
    assert not record["network"]["trained"] and record["network"]["seed"] == 0
    own, eatss, max_iou = record["assigners"]
    assert own["name"] == "one2many" and own["pairs"][0]["anchor"] is None and "u" in own["pairs"][0]["weights"]["box"]
    assert eatss["priors"]["kind"] == "one square anchor of 8 strides a point"
    assert max_iou["priors"]["count"] == 9 * own["priors"]["count"] and "weights" not in max_iou["pairs"][0]
    assert eatss["counts"]["extras"] > 0 and eatss["pairs"][0]["score"] is not None
    # The same seed is the same picture; another one has other scores.
    assert inspected(folder, *argv, "--assigners", "own", "eatss", "max_iou") == 0
    assert out.with_suffix(".json").read_text(encoding="utf8") == first
    assert inspected(folder, *argv, "--assigners", "own", "--seed", "1") == 0
    other = json.loads(out.with_suffix(".json").read_text(encoding="utf8"))["assigners"][0]["pairs"][0]
    assert other["score"] != own["pairs"][0]["score"]


MINE = '''
from bifocals.assign import FCOS
from bifocals.recipes import atss


class Nearest(FCOS):
    """FCOS by another name."""


def small(**arguments):
    return atss(**arguments)


def clashing(split: str = "x"):
    return atss()
'''


def test_parts_of_ones_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine.py").write_text(MINE)
    argv = ["date", "--data.root", str(folder / "data"), *SMALL, "--out", str(tmp_path / "a.png"), "--panel", "300"]
    assert inspected(folder, *argv, "--assigners", "own", f"{tmp_path / 'mine.py'}:Nearest", "--output", "one2many",
                     "--object", "0") == 0
    record = json.loads((tmp_path / "a.json").read_text(encoding="utf8"))
    assert [a["name"] for a in record["assigners"]] == ["one2one", "one2many", "Nearest"]
    assert record["assigners"][1]["pairs"] == record["assigners"][2]["pairs"]
    assert record["assigners"][0]["counts"]["per_object"] == [1] * len(record["objects"])
    assert inspected(folder, f"{tmp_path / 'mine.py'}:clashing") == 1
    assert "['split']" in capsys.readouterr().err


def test_errors_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]):
    run, data = str(folder / "run"), str(folder / "data")
    cases = [
        ([run, "--image", "000000000099.jpg"], "got '000000000099.jpg'; near are"),
        ([run, "--image", picture_of(folder), "--split", "train"], "--split names another split"),
        ([run, "--image", picture_of(folder), "--assigners", "own", "nobody"], "--assigners knows own, atss"),
        ([run, "--image", picture_of(folder), "--object", "99"], "got 99"),
        ([run, "--image", picture_of(folder), "--output", "one2one"], "['one2many'], got 'one2one'"),
        ([run], "expected --image"),
        (["hcrol", "--image", "a.jpg"], "got 'hcrol'"),
        ([data, "--image", "a.jpg"], "a work directory of bifocals train (with run.json)"),
    ]
    for argv, message in cases:
        assert main(["inspect", "assign", *argv]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert main(["inspect", "assign", "fcos", "--image", "a.jpg"]) == 2
    assert "--data.root DIR" in capsys.readouterr().err
    assert main(["inspect", "things"]) == 2 and "['assign']" in capsys.readouterr().err
    assert main(["inspect"]) == 2 and main(["inspect", "--help"]) == 0
    assert main(["inspect", "assign", "--help"]) == 0 and "RCI" in capsys.readouterr().out


def test_images_are_found_by_path_name_and_stem(folder: Path, tmp_path: Path):
    annotations = annotations_of(folder)
    file = annotations.files[2]
    for name in (file, Path(file).stem, f"elsewhere/{file}", annotations.image_path(2)):
        assert find_image(annotations, name) == 2
    with pytest.raises(ValueError, match="of my set \\(3 images\\), got 'x.png'; near are .*; try another"):
        find_image(annotations, "x.png", "my set", "try another")
    twins = annotations.subset([0, 0])
    with pytest.raises(ValueError, match="which means 2"):
        find_image(twins, annotations.files[0])
    with pytest.raises(ValueError, match="it has none"):
        find_image(annotations.subset([]), "x.png")


def test_python_s_own_inspect_stays_visible():
    """Also where the command is run by the path of its file, whose folder then comes first."""
    file = bifocals.cli.main.__file__
    done = subprocess.run([sys.executable, file, "inspect"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "usage: bifocals inspect" in done.stdout and not done.stderr
