"""bifocals export: what is said before anything is written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bifocals.cli import export
from bifocals.cli.main import main
from bifocals.data import Input, MapInput
from bifocals.export import ParityError


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("detect", ["--argmax"], "expected a segmenter for --argmax, got the detector in run"),
        ("segment", ["--nms", "0.5"], "expected a detector for --nms, got the segmenter in run"),
    ],
)
def test_options_of_the_other_task_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, task: str, options: list[str], words: str
) -> None:
    monkeypatch.setattr(export, "load", lambda *_: SimpleNamespace(experiment=SimpleNamespace(task=task)))
    assert main(["export", "run", *options]) == 1
    assert words in capsys.readouterr().err


def test_a_rejected_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def reject(*_: Any) -> None:
        raise ParityError("The exported file was rejected.")

    monkeypatch.setattr(export, "load", reject)
    assert main(["export", "run"]) == 1
    assert capsys.readouterr().err == "bifocals export: The exported file was rejected.\n"


def test_the_canvas_holds_every_picture_as_evaluation_sizes_it() -> None:
    detector = export.sizing(Input(short=50, long=80))
    assert export.canvas(detector, 32, [(100, 200), (200, 100)]) == (96, 96)  # 40 x 80 and 80 x 40
    assert export.canvas(detector, 32, [(100, 100)]) == (64, 64)
    segmenter = export.sizing(MapInput(factor=0.5))
    assert export.canvas(segmenter, 32, [(360, 480)]) == (192, 256)
    assert export.canvas(segmenter, 8, [(361, 481), (10, 500)]) == (184, 256)  # 180.5 rounds up to 181
