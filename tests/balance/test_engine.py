"""Balancers in a run: two processes, a checkpoint inside of a window, the log, and the names of `--balance`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bifocals.balance import ALWA, DTP, DWA, Balance, Fixed, Guided
from bifocals.cli.find import parse_call
from bifocals.data import Data
from bifocals.recipes import date, defcn, mal, retinanet
from bifocals.recipes.balanced import balanced
from bifocals.train import Provenance, Run, fit, read_log, rebuild
from tests.balance.weighed import weighed
from tests.train.scenario import (
    Job,
    assert_equal_runs,
    draw_set,
    finish,
    last_tensors,
)

WEIGHED = str(Path(__file__).with_name("weighed.py")) + ":weighed"
STEPS = 10
"""Two epochs of 20 images in batches of 4."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=20)


def job(data: Data, workdir: Path, balance: Balance, ranks: int = 1, **options) -> Job:
    run = Run(str(workdir), workers=0, **{"log_every": 4, "save_every": 100, **options})
    return Job({"data": data, "balance": balance}, run, WEIGHED, ranks=ranks)


def objective_of(workdir: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    start = f"state.safetensors:objective/{rank}/branches.one2many.balance."
    return {n.removeprefix(start): t for n, t in last_tensors(workdir).items() if n.startswith(start)}


ALWA_3 = Balance("alwa1", rule="raw", window=3)


@pytest.mark.parametrize(("balance", "names"), [
    (ALWA_3, ("alpha", "record")), (Balance("dtp"), ("performance",)), (Balance("guided"), ("ratio",)),
], ids=["alwa", "dtp", "guided"])  # fmt: skip
def test_12_two_gloo_processes_have_the_weights_of_one(data, tmp_path, balance, names):
    """They see different images and so different losses; what they record is the mean, and the weights are equal."""
    for ranks in (1, 2):
        one = job(data, tmp_path / str(ranks), balance, ranks)
        assert finish(one, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    single, first, second = objective_of(tmp_path / "1"), *(objective_of(tmp_path / "2", r) for r in range(2))
    for name in names:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], single[name], rtol=1e-3, atol=1e-5)
        assert not torch.equal(single[name], torch.ones_like(single[name]))


def test_11_a_run_that_is_stopped_inside_of_a_window_resumes_bit_for_bit(data, tmp_path):
    """Stopped after steps 4 and 8; windows end after 3, 6 and 9."""
    straight = job(data, tmp_path / "straight", ALWA_3)
    assert finish(straight, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    for at, resume in ((4, "no"), (8, "auto"), (-1, "auto")):
        part = job(data, tmp_path / "stopped", ALWA_3, resume=resume)
        part = Job(part.arguments, part.run, WEIGHED, at_step=at, event="term" if at > 0 else "nothing")
        assert finish(part, tmp_path / "out.txt") == (75 if at > 0 else 0), (tmp_path / "out.txt").read_text()
    assert_equal_runs(tmp_path / "straight", tmp_path / "stopped")
    assert windows_of(tmp_path / "stopped") == windows_of(tmp_path / "straight")
    assert [row["step"] for row in windows_of(tmp_path / "straight")] == [3, 6, 9]


def windows_of(workdir: Path) -> list[dict]:
    records = [r for r in read_log(workdir) if r["kind"] == "train"]
    return [row for r in records for row in r.get("windows", {}).get("one2many", [])]


def test_the_log_has_every_window_however_rarely_it_is_written(data, tmp_path):
    """A log period of all ten steps, and windows of two: five of them in one record, and alpha as it stands."""
    fit(weighed(Balance("alwa2", rule="raw", window=2), data), Run(str(tmp_path / "run"), workers=0, log_every=100))
    last = [r for r in read_log(tmp_path / "run") if r["kind"] == "train"][-1]
    rows = windows_of(tmp_path / "run")
    assert [(row["window"], row["step"]) for row in rows] == [(i, 2 * i) for i in range(1, 6)]
    assert set(rows[0]) == {"window", "step", "alpha", "rho", "cls_mean", "cls_std", "reg_mean", "reg_std"}
    assert last["scheduled"] == pytest.approx({"one2many/alpha": rows[-1]["alpha"], "one2many/rho": rows[-1]["rho"]})
    for row in rows:
        assert row["rho"] == pytest.approx(row["reg_std"] / row["cls_std"], rel=1e-4)
    assert any(row["alpha"] < 1 for row in rows)


def test_windows_are_of_the_losses_that_the_log_has(data, tmp_path):
    """One record a step: their means are the window's, of boxes under the recipe's weight of 2."""
    fit(weighed(ALWA_3, data), Run(str(tmp_path / "run"), workers=0, log_every=1))
    records = [r for r in read_log(tmp_path / "run") if r["kind"] == "train"]
    for row in windows_of(tmp_path / "run"):
        part = records[row["step"] - 3 : row["step"]]
        for name, loss, base in (("cls_mean", "one2many/cls", 1), ("reg_mean", "one2many/giou", 2)):
            assert row[name] == pytest.approx(base * sum(r["raw"][loss] for r in part) / 3, rel=1e-5)
    for before, after in pairwise(records):
        # alpha of a record acts from the next step on; the box side keeps the recipe's weight, the aux branch its own.
        alpha = before["scheduled"]["one2many/alpha"]
        assert after["weighted"]["one2many/cls"] == pytest.approx(alpha * after["raw"]["one2many/cls"], rel=1e-5)
        assert after["weighted"]["one2many/giou"] == pytest.approx(2 * after["raw"]["one2many/giou"], rel=1e-6)
        assert after["weighted"]["aux/cls"] == after["raw"]["aux/cls"]


def test_13_fixed_at_1_trains_the_recipe_to_the_bit(data, tmp_path):
    for name in ("recipe", "fixed"):
        fit(weighed(Balance(name), data), Run(str(tmp_path / name), workers=0, log_every=100))
    assert_equal_runs(tmp_path / "recipe", tmp_path / "fixed")


def test_a_faithful_failure_stops_the_run_at_its_step(data, tmp_path):
    """Images without objects: no box is positive in any step, and Guided Loss's ratio is a mean over none."""
    empty = draw_set(tmp_path / "empty", train=8, empty=tuple(range(8)))
    with pytest.raises(FloatingPointError, match="The losses of step 1 expected finite numbers, got raw one2many/cls"):
        fit(weighed(Balance("guided", faithful=True), empty, epochs=2), Run(str(tmp_path / "run"), workers=0))
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert report["ranks"][0]["weighted"]["one2many/cls"] == "nan"
    assert report["ranks"][0]["raw"]["one2many/giou"] == 0
    fit(weighed(Balance("guided"), empty, epochs=2), Run(str(tmp_path / "guarded"), workers=0))


def test_names_build_their_balancers():
    kinds = {"fixed": Fixed, "alwa1": ALWA, "alwa2": ALWA, "dwa": DWA, "dtp": DTP, "guided": Guided}
    for name, kind in kinds.items():
        branches = date(balance=Balance(name)).objective().branches
        assert [type(b.balance) for b in branches.values()] == [kind, kind]
    one = date(balance=Balance("alwa2", ("one2one",), rule="raw", window=7, lambda0=0.5)).objective().branches
    assert isinstance(one["one2many"].balance, Fixed)
    alwa = one["one2one"].balance
    assert (alwa.stat, alwa.rule, alwa.window, alwa.lambda0) == ("std", "raw", 7, 0.5)
    assert alwa.sides.base == {"cls": 2.0, "l1": 5.0, "giou": 2.0}
    static = date(balance=Balance("fixed", weights=(0.25, 0.5))).objective().branches["one2one"].balance
    assert static.weights == {"cls": 0.5, "l1": 2.5, "giou": 1.0}
    # DeFCN's auxiliary branch has no boxes: it is left alone, where nobody names it.
    assert defcn(balance=Balance("alwa1")).objective().branches["aux"].balance is None


def test_branches_that_cannot_be_balanced():
    with pytest.raises(ValueError, match=r"Balance expected branches of \['one2one', 'one2many'\], got \['rpn'\]"):
        date(balance=Balance("alwa1", ("rpn",))).objective()
    with pytest.raises(ValueError, match=r"Balance 'alwa1' expected a branch with losses of classes and of boxes, got "
                                         r"\{'aux': \['cls'\]\}"):
        defcn(balance=Balance("alwa1", ("one2one", "aux"))).objective()
    with pytest.raises(ValueError, match=r"\{'one2many': \['positive', 'negative'\]\}"):
        mal(balance=Balance("alwa1")).objective()
    with pytest.raises(ValueError, match="Balance expected branch 'one2many' with fixed weights, got ALWA,"):
        balanced(retinanet(balance=Balance("alwa1")), Balance("dwa")).objective()
    with pytest.raises(ValueError, match="Balance knows"):
        Balance("best")
    with pytest.raises(ValueError, match="ALWA expected a window of at least 2 steps"):
        Balance("alwa1", window=1)
    with pytest.raises(ValueError, match="two weights of 0 or more"):
        Balance("fixed", weights=(1.0, -1.0))


def test_the_command_line_chooses_by_name():
    for argv in (["--balance", "alwa1"], ["--balance=alwa1"], ["--balance.name", "alwa1"]):
        found, _ = parse_call(retinanet, [*argv, "--balance.window", "20", "--backbone", "resnet18"], "test")
        assert found["balance"] == Balance("alwa1", window=20)
        assert found["backbone"].name == "resnet18"
    with pytest.raises(SystemExit):
        parse_call(retinanet, ["--balance", "best"], "test")


def test_a_balanced_run_comes_back_from_json():
    balance = Balance("fixed", ("one2one",), (0.25, 0.5), updates=1)
    made = Provenance("bifocals.recipes.date:date", {"balance": balance})
    record = json.loads(json.dumps({"recipe": made.recipe, "recipe_sha256": None,
                                    "arguments": made.resolved(lambda line: None)}))
    again = rebuild(record, lambda line: None).objective()
    assert again.branches["one2one"].balance.weights["cls"] == 0.5
