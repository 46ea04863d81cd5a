"""The command line: fast to ask, clear when it is misused, the same as the functions below it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bifocals.cli.find import recipe_names, recipe_reference
from bifocals.cli.main import COMMANDS, main
from bifocals.cli.options import parse_nms


def test_help_is_fast_and_imports_no_torch():
    code = ("import sys, bifocals; from bifocals.cli.main import main; main(['--help']); "
            "assert 'torch' not in sys.modules, 'torch was imported'")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert min(times) < 0.5


ASKED = [["train", "date"], ["evaluate"], ["predict"], ["export"], ["check"], ["cost", "fcos"], ["cost"], ["train"],
         ["check", "dataset"], ["demo"]]


@pytest.mark.parametrize("command", ASKED, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys):
    try:
        code = main([*command, "--help"])
    except SystemExit as end:
        code = end.code
    assert code == 0
    text = capsys.readouterr().out
    assert len(text) > 300 and "usage" in text


def test_recipes_are_found_by_name():
    assert set(recipe_names()) >= {"date", "fcos", "onenet"}
    assert all("arXiv" in line for line in recipe_names().values())
    assert recipe_reference("date") == "bifocals.recipes.date:date"
    assert recipe_reference("mine.py:near") == "mine.py:near"
    with pytest.raises(ValueError, match="got 'dat'; did you mean 'date'"):
        recipe_reference("dat")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["trian"], 2, "expected one of the commands"),
        (["train", "dat", "--data.root", "x"], 1, "did you mean 'date'"),
        (["train", "date"], 2, "expected --data.root DIR"),
        (["train", "date", "--data.root", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["evaluate", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["check", "nothing"], 2, "expected 'dataset DIR' or FILE.py:NAME"),
        (["check", "nothing.py:Part"], 1, "'nothing.py', which does not exist"),
    ],
)
def test_misuse_is_one_sentence(argv: list[str], code: int, message: str, capsys):
    assert main(argv) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "date", "--data.rot", "x"])
    assert end.value.code == 2
    assert "--data.root" in capsys.readouterr().err


def test_nms_option():
    assert parse_nms("none") is None
    assert parse_nms("0.6") == 0.6
    assert parse_nms("default") == "default"
    with pytest.raises(ValueError, match="--nms expected none or an IoU"):
        parse_nms("much")


def test_cost_prints_the_integers(capsys):
    assert main(["cost", "date"]) == 0
    text = capsys.readouterr().out
    for number in ("32,213,422", "32,488,942", "203.896", "32,017,497", "32,293,017", "199.719"):
        assert number in text


PARTS = '''
import torch
from bifocals.structures import Match

class Nearest:
    """The nearest prior of each object."""
    def __call__(self, priors, target, prediction):
        center = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
        far = torch.cdist(priors.points, center)
        prior = far.argmin(0) if len(center) else torch.zeros(0, dtype=torch.int64)
        return Match(prior, torch.arange(len(center)))

class Broken(Nearest):
    def __call__(self, priors, target, prediction):
        match = super().__call__(priors, target, prediction)
        return Match(match.prior + len(priors), match.gt)

def squared(matched):
    return matched.logits.square().sum() / matched.num_positive
'''


def test_check_runs_contracts_on_a_file(tmp_path: Path, capsys):
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    assert main(["check", f"{path}:Nearest"]) == 0
    assert "keeps the contract of an assigner" in capsys.readouterr().out
    assert main(["check", f"{path}:squared"]) == 0
    assert "keeps the contract of a loss" in capsys.readouterr().out
    assert main(["check", f"{path}:Broken"]) == 1
    assert "Broken breaks its contract: expected prior from 0 to" in capsys.readouterr().err
    assert main(["check", f"{path}:Absent"]) == 1
    assert "'Absent'" in capsys.readouterr().err


def test_check_dataset(tmp_path: Path, capsys):
    from PIL import Image

    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    good = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
    document = {"images": [image], "annotations": [good], "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "train.json").write_text(json.dumps(document))
    assert main(["check", "dataset", str(tmp_path)]) == 0
    assert "sound" in capsys.readouterr().out
    document["annotations"].append({**good, "id": 2, "bbox": [5, 5, -3, 4]})
    (tmp_path / "train.json").write_text(json.dumps(document))
    assert main(["check", "dataset", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "1 defects" in text and "train.json" in text and "-3" in text
