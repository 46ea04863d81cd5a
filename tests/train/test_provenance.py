"""run.json holds enough to build the same experiment again, and names nothing that is not a recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bifocals.data import Data, Input
from bifocals.train import Optim, Provenance, find_recipe, rebuild
from bifocals.train.provenance import describe, differences, environment, git_state, recipe_digest
from tests.train.stand_in import stateless, tiny

STAND_IN = str(Path(__file__).with_name("stand_in.py"))


def record_of(provenance: Provenance) -> dict:
    record = {"recipe": provenance.recipe, "recipe_sha256": recipe_digest(provenance.recipe),
              "arguments": provenance.resolved(lambda line: None)}
    return json.loads(json.dumps(record))


@pytest.mark.parametrize("recipe", ["fcos", "date", "onenet", "retinanet", "defcn"])
def test_our_recipes_come_back_from_json(recipe):
    chosen = {"optim": Optim("sgd", lr=0.1, milestones=(0.5, 0.75), ema=0.999, clip_norm=None), "epochs": 2.5,
              "input": Input(64, 96, multiscale=(32, 64)), "data": Data(root="some/where", val="valid")}
    reference = f"bifocals.recipes.{recipe}:{recipe}"
    made = find_recipe(reference)(**chosen)
    record = record_of(Provenance(reference, chosen))
    said: list[str] = []
    again = rebuild(record, said.append)
    assert describe(again) == describe(made)
    assert (again.optim, again.input, again.data) == (made.optim, made.input, made.data)
    assert said == []


def test_defaults_are_recorded_too():
    plain = Provenance("bifocals.recipes.date:date").resolved()
    assert plain["optim"]["lr"] == 4e-4
    assert plain["lambda_o2o"] == 1.0 and plain["lambda_o2m"] is None  # None: what the one-to-many half says


def test_a_run_of_an_older_version_comes_back():
    record = record_of(Provenance("bifocals.recipes.date:date", {"epochs": 3}))
    del record["arguments"]["init"], record["arguments"]["optim"]["ema"]  # as if they had not existed yet
    again = rebuild(record, lambda line: None)
    assert again.epochs == 3 and again.optim == Optim()
    record["arguments"]["optim"]["momentum_of_old"] = 0.5  # a setting that is gone cannot be honored
    with pytest.raises(ValueError, match=r"rebuild expected .* got \['optim.momentum_of_old: 0.5 then, None now'\]"):
        rebuild(record, lambda line: None)


def test_a_file_is_executed_and_said_so(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(Path(STAND_IN).read_text())
    said: list[str] = []
    record = record_of(Provenance(f"{path}:tiny", {"epochs": 3}))
    path.write_text(path.read_text() + "\n# a new line\n")
    experiment = rebuild(record, said.append)
    assert experiment.epochs == 3
    assert said[0] == f"executing {path} for the recipe tiny"
    assert "has changed since the run" in said[1]


def test_an_unchanged_file_is_executed_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from tests.train.stand_in import tiny as _tiny\nprint('executed')\ndef mine(epochs: float = 1):\n"
                    "    return _tiny(epochs=epochs)\n")
    said: list[str] = []
    assert find_recipe(f"{path}:mine", said.append) is find_recipe(f"{path}:mine", said.append)
    assert len(said) == 1


@pytest.mark.parametrize("reference", [
    "os:system", "subprocess:run", "bifocals.train.fit:fit", "bifocals.recipes:date", "bifocals.recipes.date",
    "bifocals.recipes.date:date:date", "bifocals.recipes.date:_private", "bifocals.recipes..os:system", "", ":",
    "mine.txt:f", "bifocals.recipes.date:date\n", "posixpath:join", "file:///etc/x.py",
])  # fmt: skip
def test_anything_else_is_refused(reference):
    with pytest.raises(ValueError, match=r"find_recipe expected 'bifocals\.recipes\.NAME:FUNCTION' or "):
        find_recipe(reference)


@pytest.mark.parametrize(("reference", "message"), [
    ("bifocals.recipes.nothing:nothing", "there is no module bifocals.recipes.nothing"),
    ("bifocals.recipes.date:Optim", r"expected a function defined in bifocals\.recipes\.date, got 'Optim'"),
    ("bifocals.recipes.date:dense_network", "expected a function defined in"),
    ("nowhere.py:f", "expected a file, got 'nowhere.py:f'"),
])  # fmt: skip
def test_a_missing_recipe_says_what_there_is(reference, message):
    with pytest.raises(ValueError, match=message):
        find_recipe(reference)


def test_values_that_do_not_fit_are_named():
    record = record_of(Provenance("bifocals.recipes.date:date"))
    record["arguments"]["optim"]["lr"] = "high"
    with pytest.raises(ValueError, match=r"date expected optim to be .*Optim.*got .*'high'"):
        rebuild(record)
    record = record_of(Provenance("bifocals.recipes.date:date"))
    record["arguments"]["optim"]["speed"] = 3
    with pytest.raises(ValueError, match=r"optim\.speed: 3 then, None now"):
        rebuild(record)
    record = record_of(Provenance("bifocals.recipes.date:date"))
    record["arguments"]["speed"] = 3
    with pytest.raises(ValueError, match=r"date expected arguments \[.*'optim'\], got \['speed'\]"):
        rebuild(record)


def test_a_run_without_a_recipe_says_how_to_load_it():
    with pytest.raises(ValueError, match=r"load\(\.\.\., experiment=\.\.\.\)"):
        rebuild({"recipe": None, "arguments": None})


def test_a_function_that_makes_no_experiment_is_refused():
    with pytest.raises(ValueError, match="to return an Experiment, got"):
        rebuild({"recipe": "bifocals.recipes.fcos:fcos_predictor", "arguments": {"tricks": True}})


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"JSON can hold, got \[.*epochs.*\]|expected epochs"):
        Provenance("bifocals.recipes.date:date", {"epochs": float("inf")}).resolved()


def test_differences_are_named_by_their_path():
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1]}, "d": 0}) == [
        "a.b: 1 then, 2 now", "d: None then, 0 now"]


def test_an_experiment_of_another_kind_differs():
    assert differences(describe(tiny()), describe(stateless())) != []


def test_environment_names_versions_and_hardware():
    found = environment(torch.device("cpu"), 1)
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"]
    assert found["hardware"]["device"] == "cpu"
    assert set(found) == {"git", "versions", "hardware"}


def test_git_state_knows_commit_and_changes(tmp_path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True,
                              text=True).stdout.strip()

    try:
        git("init", "--quiet")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (tmp_path / "a.py").write_text("1")
    (tmp_path / ".gitignore").write_text("venv\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / "venv").mkdir()
    assert git_state(tmp_path / "venv") is None


def test_no_git_is_none(tmp_path):
    assert git_state(tmp_path) is None


def test_python_is_the_one_that_runs():
    version = environment(torch.device("cpu"), 1)["versions"]["python"]
    assert sys.version.startswith(version)


def test_an_argument_that_json_cannot_hold_is_a_users_error(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text("def mine(what=object()):\n    return None\n")
    with pytest.raises(TypeError, match="expected arguments that run.json can hold .* got a object"):
        Provenance(f"{path}:mine").resolved(say=lambda text: None)
