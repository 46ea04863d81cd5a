"""The command nms-recall: the same numbers as the function, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bifocals.cli.main import COMMANDS, main
from tests.data.small_set import SmallSet


def test_it_is_listed_and_explains_its_method(capsys) -> None:
    assert "nms-recall" in COMMANDS
    with pytest.raises(SystemExit) as end:
        main(["nms-recall", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("usage: bifocals nms-recall", "in the order of the file", "finds its own object and no other"):
        assert part in text


def test_table_and_json(tmp_path: Path, capsys) -> None:
    """The third picture has two cats that share 100 of 1004 square pixels. The cat and the dog of the first share 300
    of 1944, but are of two classes."""
    SmallSet("voc", tmp_path / "set").write()
    file = tmp_path / "out" / "recall.json"
    argv = ["nms-recall", "--data.root", str(tmp_path / "set"), "--split", "train", "--json", str(file)]
    assert main([*argv, "--thresholds", "0.05", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert "train: 3 images, 6 objects, 2.0 an image" in printed
    assert "0.8333" in printed and "1.0000" in printed
    record = json.loads(file.read_text())
    assert record["rows"] == [
        {"threshold": 0.05, "recall": 5 / 6, "found": 5, "objects": 6, "pairs": 1, "in_pairs": 2},
        {"threshold": 0.1, "recall": 1.0, "found": 6, "objects": 6, "pairs": 0, "in_pairs": 0},
    ]
    assert record["split"] == "train" and record["images"] == 3 and record["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--data.root"),
        (["--data.root", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--thresholds", "1.5"], "--data.root"),
    ],
)
def test_misuse_is_one_sentence(argv: list[str], message: str, capsys) -> None:
    assert main(["nms-recall", *argv]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
