"""The folder of a run: what is in it, whom it belongs to, and how it is loaded again."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bifocals.data import Data, Input
from bifocals.train import DamagedCheckpoint, Optim, Provenance, Run, State, fit, load, read_log
from bifocals.train.checkpoint import list_checkpoints, read_checkpoint
from bifocals.train.weights import from_bytes
from tests.train.scenario import CONTEXT, STAND_IN, Job, draw_set, finish, kill_group, start
from tests.train.stand_in import stateless, tiny

QUICK = Optim(lr=2e-3, batch_size=4, warmup_steps=3, ema=0.9)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return draw_set(tmp_path_factory.mktemp("set"), train=12, val=4)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    """A finished run of two epochs, three steps each."""
    run = Run(str(tmp_path_factory.mktemp("done") / "run"), workers=0, log_every=1)
    arguments = {"data": data, "epochs": 2}
    return fit(tiny(**arguments), run, Provenance(f"{STAND_IN}:tiny", arguments, ("bifocals", "train")))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_run_json_tells_where_a_run_comes_from(done, data):
    record = json.loads((done / "run.json").read_text())
    assert record["recipe"] == f"{STAND_IN}:tiny"
    assert record["argv"] == ["bifocals", "train"]
    assert record["arguments"]["optim"]["ema"] == 0.9  # a default, resolved
    assert record["arguments"]["data"]["root"] == data.root
    assert (record["classes"], record["category_ids"], record["images"]) == (["red", "green"], [1, 2], 12)
    assert record["run"] == {"seed": 0, "precision": "fp32", "accumulate": 1}
    session = record["sessions"][0]
    assert set(session) == {"from_step", "argv", "git", "versions", "hardware"}
    assert record["results"]["step"] == 6
    assert record["results"]["best"]["step"] in (3, 6)
    assert record["results"]["images_per_s"] > 0
    assert 0 < record["results"]["minutes"] < 5


def test_the_folder_holds_plain_files(done):
    names = {p.relative_to(done).parts[0] for p in done.rglob("*") if p.is_file()}
    assert names == {"run.json", "log.jsonl", "checkpoints", "best", ".lock"}
    suffixes = {p.suffix for p in done.rglob("*") if p.is_file() and p.name != ".lock"}
    assert suffixes == {".json", ".jsonl", ".safetensors"}


def test_weights_load_without_us(done):
    _, folder = list_checkpoints(done)[-1]
    for path in (folder / "model.safetensors", folder / "ema.safetensors", done / "best" / "model.safetensors"):
        tensors = load_file(path)
        assert tensors["predict.weight"].shape == (6, 16, 3, 3)
        assert set(tensors) == set(tiny().network(2).state_dict())


@pytest.mark.parametrize(("weights", "ema", "expected"), [
    (None, True, "best"), ("best", True, "best"), ("last", True, "last (ema)"), ("last", False, "last"),
])  # fmt: skip
def test_load_gives_the_weights_asked_for(done, weights, ema, expected):
    before = torch.get_rng_state()
    trained = load(done, weights, ema=ema, say=lambda line: None)
    assert torch.equal(torch.get_rng_state(), before)
    assert trained.weights == expected
    assert (trained.classes, trained.category_ids) == (("red", "green"), (1, 2))
    assert trained.workdir == done
    files = read_checkpoint(list_checkpoints(done)[-1][1]).files
    source = {"best": None, "last": "model.safetensors", "last (ema)": "ema.safetensors"}[expected]
    tensors = load_file(done / "best" / "model.safetensors") if source is None else from_bytes(files[source])
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, tensors[name])
    assert not trained.network.training
    assert trained.experiment.epochs == 2
    assert trained.step == (json.loads((done / "run.json").read_text())["results"]["best"]["step"]
                            if expected == "best" else 6)


def test_load_says_when_it_executes_a_file(done):
    """In a new process: here the file may have been executed already."""
    with CONTEXT.Pool(1) as pool:
        said = pool.apply(said_by_load, (str(done),))
    assert said == [f"executing {STAND_IN} for the recipe tiny"]


def said_by_load(workdir: str) -> list[str]:
    said: list[str] = []
    load(workdir, say=said.append)
    return said


def test_the_best_is_what_was_evaluated_best(data, tmp_path):
    """Its metadata says which step, and the weights are the average's of that step."""
    averages = {}

    def keep(state: State) -> None:
        assert state.ema is not None
        averages[state.step] = state.ema.module.predict.weight.detach().clone()

    workdir = fit(tiny(data=data, epochs=2), Run(str(tmp_path / "run"), workers=0), on_step=keep)
    evaluations = {r["step"]: r["AP"] for r in read_log(workdir) if r["kind"] == "evaluation"}
    trained = load(workdir, "best", experiment=tiny(data=data))
    assert evaluations[trained.step] == max(evaluations.values())
    assert torch.equal(trained.network.predict.weight, averages[trained.step])


def test_a_damaged_best_is_named(done, tmp_path):
    copy = tmp_path / "run"
    for name, content in everything(done).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    path = copy / "best" / "model.safetensors"
    content = bytearray(path.read_bytes())
    for place in (9, len(content) // 2, len(content) - 1):
        path.write_bytes(bytes(content[:place]) + bytes([content[place] ^ 1]) + bytes(content[place + 1 :]))
        with pytest.raises(DamagedCheckpoint, match="best/model.safetensors: expected"):
            load(copy, "best", say=lambda line: None)


def test_a_folder_that_is_none_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"expected a work directory with run\.json, got a path without one"):
        load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON, got a text that is none"):
        load(tmp_path)


def test_a_run_is_never_overwritten(done, data):
    before = everything(done)
    with pytest.raises(ValueError, match=r"folder without a run, got .*up to step 6: name another with --run.workdir"):
        fit(tiny(data=data), Run(str(done), workers=0))
    assert everything(done) == before


def test_other_values_are_refused_and_named(done, data):
    before = everything(done)
    other = {"data": data, "epochs": 3, "optim": replace(QUICK, lr=0.1)}
    with pytest.raises(ValueError, match="hold this run, got one of other values") as caught:
        fit(tiny(**other), Run(str(done), seed=1, workers=3, resume="auto"), Provenance(f"{STAND_IN}:tiny", other))
    message = str(caught.value)
    for part in ("arguments.epochs: 2 then, 3 now", "arguments.optim.lr: 0.002 then, 0.1 now",
                 "run.seed: 0 then, 1 now"):
        assert part in message
    assert "workers" not in message
    assert message.count("optim.lr") == 1
    assert everything(done) == before


def test_other_data_is_refused(data, tmp_path):
    changed = draw_set(tmp_path / "set", train=12, val=4)
    run = Run(str(tmp_path / "run"), workers=0)
    fit(stateless(data=changed, epochs=0.3), run)
    path = tmp_path / "set" / "annotations" / "instances_train.json"
    record = json.loads(path.read_text())
    record["annotations"][0]["bbox"][2] -= 1
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="data_sha256"):
        fit(stateless(data=changed, epochs=0.3), replace(run, resume="auto"))


def test_workers_and_periods_may_change_on_resume(data, tmp_path):
    first = Run(str(tmp_path / "run"), workers=0, log_every=2, save_every=1)
    fit(stateless(data=data, epochs=0.3), first)
    again = replace(first, resume="auto", workers=1, log_every=5, save_every=0, eval_every=2)
    assert fit(stateless(data=data, epochs=0.3), again) == tmp_path / "run"


def test_two_processes_cannot_train_in_one_folder(data, tmp_path):
    job = Job({"data": data, "epochs": 200}, Run(str(tmp_path / "run"), workers=0, resume="auto"))
    process = start(job, tmp_path / "first.txt")
    try:
        while process.is_alive() and not (tmp_path / "run" / "run.json").exists():
            process.join(0.05)
        assert finish(job, tmp_path / "second.txt") == 1
        assert "for itself, got a folder that another process trains in" in (tmp_path / "second.txt").read_text()
    finally:
        kill_group(process)
    assert process.exitcode == -signal.SIGKILL
    quick = replace(job, at_step=1, event="term")
    assert finish(quick, tmp_path / "third.txt") in (0, 75)  # the lock went with the process


def test_a_full_disk_stops_the_run_and_keeps_the_previous(data, tmp_path, monkeypatch):
    from bifocals.train import checkpoint

    real = checkpoint.write_file

    def full(path, content):
        if "00000002" in str(path):
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_file", full)
    run = Run(str(tmp_path / "run"), workers=0, save_every=1)
    with pytest.raises(OSError, match=r"step 2 could not be written.*No space left on device.*step-00000001 is as"):
        fit(tiny(data=data, epochs=1), run)
    monkeypatch.undo()
    assert [s for s, _ in list_checkpoints(tmp_path / "run")] == [1]
    fit(tiny(data=data, epochs=1), replace(run, resume="auto"))
    assert [s for s, _ in list_checkpoints(tmp_path / "run")] == [2, 3]


def test_a_batch_that_cannot_be_shared_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size that 1 processes with 3 micro-batches can share, got 4"):
        fit(tiny(data=data), Run(str(tmp_path / "run"), accumulate=3))


def test_a_set_without_val_trains_and_loads_its_last(tmp_path, capsys):
    data = draw_set(tmp_path / "set", train=8)
    workdir = fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=0))
    assert "there is no val split" in capsys.readouterr().out
    assert load(workdir, experiment=tiny(data=data)).weights == "last (ema)"
    with pytest.raises(ValueError, match=r"expected best weights in .*weights 'last' takes its last checkpoint"):
        load(workdir, "best", experiment=tiny(data=data))


def test_the_average_s_count_survives(data, tmp_path):
    counts, run = {}, Run(str(tmp_path / "run"), workers=0, save_every=1)

    def count(state: State) -> None:
        assert state.ema is not None
        counts[state.step] = int(state.ema.n_averaged)

    def stop(state: State) -> None:
        count(state)
        if state.step == 2:
            raise RuntimeError("as if killed")

    with pytest.raises(RuntimeError, match="as if killed"):
        fit(tiny(data=data, epochs=1), run, on_step=stop)
    fit(tiny(data=data, epochs=1), replace(run, resume="auto"), on_step=count)
    assert counts == {1: 1, 2: 2, 3: 3}  # step 2 was not saved, and done again


def test_evaluations_do_not_change_what_is_learned(data, tmp_path):
    """Dropout goes on as if there had been none."""
    for every in (0, 1):
        fit(tiny(data=data, epochs=3), Run(str(tmp_path / str(every)), workers=0, eval_every=every))
    one, other = (from_bytes(read_checkpoint(list_checkpoints(tmp_path / e)[-1][1]).files["model.safetensors"])
                  for e in ("0", "1"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    kinds = [[r["kind"] for r in read_log(tmp_path / e)].count("evaluation") for e in ("0", "1")]
    assert kinds == [1, 3]


def test_bf16_trains_with_losses_in_float32(data, tmp_path):
    seen = []

    def look(state: State) -> None:
        assert state.losses is not None
        seen.extend(loss.dtype for loss in state.losses.raw.values())

    workdir = fit(tiny(data=data, epochs=1), Run(str(tmp_path / "run"), workers=0, precision="bf16"), on_step=look)
    assert set(seen) == {torch.float32}
    tensors = from_bytes(read_checkpoint(list_checkpoints(workdir)[-1][1]).files["model.safetensors"])
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}


def test_the_gradient_is_clipped_to_its_norm(data, tmp_path):
    """Plain SGD moves by lr * gradient: at most lr * clip_norm a step, and less than without clipping."""
    moves = {}
    for clip in (None, 0.01):
        optim = Optim("sgd", lr=1.0, batch_size=4, weight_decay=0, momentum=0, clip_norm=clip, warmup_steps=0,
                      backbone_lr_factor=1.0, schedule="constant")
        before = None

        def move(state: State, clip=clip) -> None:
            nonlocal before
            now = torch.cat([p.detach().reshape(-1) for p in state.network.parameters()]).clone()
            if before is not None:
                moves.setdefault(clip, []).append((now - before).norm().item())
            before = now

        fit(stateless(data=data, epochs=1, optim=optim), Run(str(tmp_path / str(clip)), workers=0), on_step=move)
    assert moves[0.01] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert min(moves[None]) > 0.02


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(data, tmp_path):
    """torch.compile orders sums anew, so the losses are near and not equal."""
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    losses = []
    for compiled in (False, True):
        run = Run(str(tmp_path / str(compiled)), workers=0, log_every=1, compile=compiled)
        job = Job({"data": data, "epochs": 1}, run, f"{STAND_IN}:stateless")
        assert finish(job, tmp_path / "out.txt", 280) == 0, (tmp_path / "out.txt").read_text()
        losses.append([r["loss"] for r in read_log(Path(run.workdir)) if r["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_callbacks_and_clock(data, tmp_path):
    steps, epochs, clock = [], [], []
    experiment = tiny(data=data, epochs=2)

    def objective():
        made = experiment.objective()
        made.set_step = lambda step, total: clock.append((step, total))
        return made

    fit(replace(experiment, objective=objective), Run(str(tmp_path / "run"), workers=0),
        on_step=lambda s: steps.append(s.step), on_epoch=lambda s: epochs.append((s.step, s.epoch)))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert epochs == [(3, 1.0), (6, 2.0)]
    assert clock == [(s, 6) for s in range(6)]


def test_the_start_gives_the_body_its_weights_once(data, tmp_path, capsys):
    def begin(network):
        network.predict.bias.data.fill_(-3.0)
        network.backbone[0].requires_grad_(False)
        return "the body got its weights"

    experiment = replace(tiny(data=data, epochs=1), start=begin)
    workdir = fit(experiment, Run(str(tmp_path / "run"), workers=0))
    assert "the body got its weights" in capsys.readouterr().out
    trained = load(workdir, experiment=replace(experiment, start=lambda network: pytest.fail("called")))
    assert trained.network.predict.bias.mean().item() == pytest.approx(-3.0, abs=0.1)
    names = from_bytes(read_checkpoint(list_checkpoints(workdir)[-1][1]).files["state.safetensors"])
    assert not any("backbone.0" in name for name in names)
    # Where the weights are not found any more, other parameters learn: this is said, not guessed away.
    with pytest.raises(ValueError, match=r"optimizer of the parameters that learn now, got 2 missing"):
        fit(replace(experiment, start=None), Run(str(tmp_path / "run"), workers=0, resume="auto"))


def test_fractions_of_epochs_and_large_batches(data, tmp_path):
    workdir = fit(stateless(data=data, epochs=0.5), Run(str(tmp_path / "a"), workers=0))
    assert list_checkpoints(workdir)[-1][0] == 2  # 6 of 12 images in batches of 4
    large = Optim(batch_size=16, warmup_steps=0)
    workdir = fit(stateless(data=data, epochs=3, optim=large, input=Input(32, 32)), Run(str(tmp_path / "b"), workers=0))
    assert list_checkpoints(workdir)[-1][0] == 3  # 36 positions in batches of 16: a step may hold an image twice


@pytest.mark.parametrize(("change", "message"), [
    ({"workers": -1}, "workers to be at least 0"), ({"accumulate": 0}, "accumulate"), ({"precision": "fp16"}, "fp16"),
    ({"resume": "yes"}, "resume"), ({"loggers": ("tensorbord",)}, "tensorbord"), ({"workdir": ""}, "workdir"),
    ({"log_every": 0}, "log_every"),
])  # fmt: skip
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Run(**change)


def test_a_device_that_is_not_there_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="device to be auto, cpu, cuda or cuda:N, got 'gpu'"):
        fit(tiny(data=data), Run(str(tmp_path / "run"), device="gpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no CUDA device"):
            fit(tiny(data=data), Run(str(tmp_path / "run"), device="cuda"))
    assert not (tmp_path / "run").exists()


def test_run_has_at_most_twelve_fields():
    assert len(Run.__dataclass_fields__) <= 12
