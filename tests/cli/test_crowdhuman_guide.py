"""The commands of the guide to CrowdHuman mean what the guide says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bifocals.cli.find import parse_call
from bifocals.cli.main import COMMANDS
from bifocals.data import Input
from bifocals.recipes import date
from bifocals.train import Optim, Run, learning_rate_factor

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "crowdhuman.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```\n(bifocals .*?)```", GUIDE.read_text(encoding="utf8"), re.DOTALL)
    return [shlex.split(block.replace("\\\n", " ")) for block in blocks]


def test_every_command_is_one() -> None:
    assert [words[1] for words in commands()] == ["train", "evaluate", "nms-recall"]
    assert all(words[1] in COMMANDS for words in commands())


def test_training_is_the_preset() -> None:
    words = commands()[0]
    assert words[:3] == ["bifocals", "train", "date"]
    values, extra = parse_call(date, words[3:], "bifocals train date", run=(Run, Run("x")))
    assert values["input"] == Input.crowdhuman()
    assert values["epochs"] * 15_000 / values["optim"].batch_size == 30_000
    for step in (0, 500, 19_999, 20_000, 24_999, 25_000, 29_999):
        typed, preset = (learning_rate_factor(optim, step, 30_000) for optim in (values["optim"], Optim.crowdhuman()))
        assert typed == pytest.approx(preset)
    assert values["matching"] == "hungarian"
    assert extra["run"].eval_every == 0
