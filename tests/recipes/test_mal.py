"""MAL and FreeAnchor: presets, the baseline, what they ship, checkpoints that go both ways, the log of schedules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bifocals.assign import Bags, MaxIoU
from bifocals.cli.find import parse_call
from bifocals.data import Annotations, Data, Input, PackedStrings, save_coco
from bifocals.evaluate.cost import cost
from bifocals.losses import BagLoss, Focal, IoUNegatives, SmoothL1, SoftNegatives
from bifocals.networks import Backbone, DenseDetector, Depression, Towers
from bifocals.objective import Losses
from bifocals.recipes import freeanchor, mal, retinanet
from bifocals.recipes.mal import MultipleAnchor
from bifocals.recipes.retinanet import RetinaHead
from bifocals.structures import Anchors, DeltaCoder, Target
from bifocals.train import Experiment, Optim, Provenance, Run, fit, load, read_log

SMALL = {"backbone": Backbone("timm:mobilenetv3_small_050", "pytorch", "none"), "towers": Towers(64, 1, norm="none")}
LEGACY = {"head": RetinaHead.legacy(), **SMALL}


def targets(crowd: bool = False) -> list[Target]:
    boxes = torch.tensor([[8.0, 8, 40, 44], [30, 20, 62, 60]])
    flags = torch.full((2,), crowd)
    return [Target(boxes, torch.tensor([0, 1]), flags, (64, 64), (64, 64)),
            Target(boxes[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), (64, 64), (64, 64))]


IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def started(experiment: Experiment) -> DenseDetector:
    torch.manual_seed(0)
    return experiment.network(2)


def losses_of(experiment: Experiment, network: DenseDetector, crowd: bool = False, step: int = 50) -> Losses:
    objective = experiment.objective()
    objective.set_step(step, 100)
    if network.hook is not None:
        network.hook.set_step(step, 100)
    return objective(network.train()(IMAGES), targets(crowd))


def test_presets():
    paper, release = mal(**SMALL), mal(rule="release", **SMALL)
    for experiment, select in ((paper, "topn"), (release, "mean_max"), (freeanchor(**SMALL), "mean_max"),
                               (mal(bags=MultipleAnchor(select="all"), **SMALL), "all")):
        branch = experiment.objective().branches["one2many"]
        assert branch.assigner == Bags(50)
        assert branch.losses == {"positive": BagLoss(50, select), "negative": SoftNegatives(2.0, 0.6)}
        assert branch.balance.weights == {"positive": 0.5, "negative": 0.5}
    assert started(paper).hook.depression == started(release).hook.depression == Depression("symmetric", 0.5, 0.25)
    assert started(freeanchor(**SMALL)).hook is None
    literal = mal(bags=MultipleAnchor(k=9, negatives="iou"), **SMALL).objective().branches["one2many"]
    assert literal.losses["negative"] == IoUNegatives(9, "topn")
    assert literal.balance.weights == {"positive": 0.5, "negative": 0.75}
    steps = mal().epochs * 117_266 / 16
    assert [round(m * steps, -3) for m in (1, *mal().optim.milestones)] == [135_000, 90_000, 120_000]
    steps = freeanchor().epochs * 117_266 / 16
    assert [round(m * steps, -3) for m in (1, *freeanchor().optim.milestones)] == [90_000, 60_000, 80_000]


def test_the_baseline_of_mal():
    head = RetinaHead.legacy()
    assert head.anchors == Anchors(offset=0.5, rounded=True) and head.prior_probability == 0.02
    coder = DeltaCoder((0.1, 0.1, 0.2, 0.2))
    for experiment in (mal(loss="retinanet", **SMALL), retinanet(**LEGACY)):
        branch = experiment.objective().branches["one2many"]
        assert branch.assigner == MaxIoU(0.5, 0.4, True, 0.0, None)
        assert branch.losses == {"cls": Focal(0.25, 2.0, "with_images"), "box": SmoothL1(0.11, coder, "reduced")}
        assert branch.balance.weights == {"box": 0.25}
    bias = started(mal(**SMALL)).head.predictors["one2many"].cls.bias
    assert bias.tolist() == pytest.approx([-3.8918] * 18, abs=1e-4)


def test_what_it_costs_is_what_retinanet_costs():
    ours, theirs = (cost(lambda e=e: e.network(80), (800, 1344)).total for e in (
        mal(), retinanet(head=RetinaHead.legacy(), towers=Towers(norm="none"))))
    assert ours == theirs
    # Without norms: 8 convolutions of 256 x 256 x 9 with biases; no scales.
    house = cost(lambda: retinanet().network(80), (800, 1344)).total
    assert house.parameters - ours.parameters == 8 * 2 * 256 - 8 * 256 + 5


def test_with_all_off_it_is_the_baseline_to_the_bit():
    off = mal(loss="retinanet", depression=Depression("none"), **SMALL)
    ours, theirs = losses_of(off, started(off)), losses_of(retinanet(**LEGACY), started(retinanet(**LEGACY)))
    assert set(ours.weighted) == set(theirs.weighted) == {"one2many/cls", "one2many/box"}
    for name, loss in theirs.weighted.items():
        assert torch.equal(ours.weighted[name], loss)
    # Depression alone changes features and nothing else.
    alone = mal(loss="retinanet", **SMALL)
    depressed = losses_of(alone, started(alone))
    assert not torch.equal(depressed.total, theirs.total)
    assert torch.equal(losses_of(alone, started(alone), step=0).total, theirs.total)


@pytest.mark.parametrize("rule", ["paper", "release"])
@pytest.mark.parametrize("crowd", [False, True])
def test_every_parameter_gets_a_finite_gradient(rule, crowd: bool):
    for negatives in ("soft", "iou"):
        experiment = mal(rule=rule, bags=MultipleAnchor(negatives=negatives), **SMALL)
        network = started(experiment)
        losses = losses_of(experiment, network, crowd)
        assert bool(losses.total.isfinite())
        assert (losses.raw["one2many/positive"] == 0) == crowd  # crowd leaves no object
        losses.total.backward()
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_a_fresh_network_starts_where_the_sheet_says():
    experiment = mal(**SMALL)
    losses = losses_of(experiment, started(experiment), step=0)
    # -log .02 is 3.912, and boxes add to it; the background is far below.
    assert losses.raw["one2many/positive"] > 3.9
    assert losses.raw["one2many/negative"] < 0.2


# Training, checkpoints, log


def small_set(folder: Path) -> Data:
    draw = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(draw.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    made = Annotations(
        root=folder, files=PackedStrings.pack([f"{i}.png" for i in range(4)]), image_ids=np.arange(4),
        sizes_hw=np.full((4, 2), 64, dtype=np.int32), offsets=np.arange(5), labels=np.array([0, 1, 0, 1]),
        boxes=np.array([[8, 8, 40, 44]] * 4, dtype=np.float64), crowd=np.zeros(4, dtype=bool),
        area=np.full(4, 32 * 36.0), classes=("red", "blue"), category_ids=(1, 2),
    )
    save_coco(made, folder / "train.json")
    return Data(str(folder))


def train(name: str, arguments: dict, workdir: Path, epochs: float) -> Path:
    recipe = {"mal": mal, "retinanet": retinanet}[name]
    common = {"input": Input(64, 64, augment="none"), "epochs": epochs,
              "optim": Optim(lr=1e-3, batch_size=4, backbone_lr_factor=1.0, warmup_steps=0)}
    run = Run(str(workdir), workers=0, log_every=1, save_every=1000, device="cpu")
    arguments = {**arguments, **common}
    return fit(recipe(**arguments), run, Provenance(f"bifocals.recipes.{name}:{name}", arguments))


def test_trained_weights_go_both_ways_and_the_log_has_the_schedules(tmp_path: Path):
    data = small_set(tmp_path)
    ours = train("mal", {**SMALL, "data": data}, tmp_path / "mal", 6)
    theirs = train("retinanet", {**LEGACY, "data": data}, tmp_path / "retinanet", 1)
    log = read_log(ours)
    assert [r["scheduled"] for r in log] == [
        {"one2many/selected": min(50, 50 * (6 - t) // 6 + 1), "depression": Depression().ratio(t, 6)}
        for t in range(1, 7)]
    assert "scheduled" not in read_log(theirs)[0]

    for trained, other in ((load(ours), retinanet(**LEGACY)), (load(theirs), mal(**SMALL))):
        network = other.network(2)
        network.load_state_dict(trained.network.state_dict(), strict=True)
        if network.hook is not None:
            network.hook.set_step(50, 100)
        with torch.no_grad():
            a, b = trained.network(IMAGES)["one2many"], network.eval()(IMAGES)["one2many"]
        for field in ("logits", "deltas", "boxes"):
            assert torch.equal(getattr(a, field), getattr(b, field))
        assert [tuple(d.boxes.shape) for d in trained.experiment.postprocess["one2many"](a, targets())] == [
            tuple(d.boxes.shape) for d in other.postprocess["one2many"](b, targets())]


# The command line


def test_options_are_flags():
    argv = ["--rule", "release", "--bags.k", "40", "--bags.select", "max", "--depression.schedule", "step",
            "--depression.factor", "0", "--towers.norm", "group", "--head.scales"]
    arguments, _ = parse_call(mal, argv, "test")
    assert arguments["rule"] == "release"
    assert arguments["bags"] == MultipleAnchor(k=40, select="max")
    assert arguments["depression"] == Depression("step", factor=0.0)
    assert arguments["towers"] == Towers()
    assert arguments["head"] == replace(RetinaHead.legacy(), scales=True)
    assert Provenance("bifocals.recipes.mal:mal", arguments).resolved()["bags"]["select"] == "max"
    arguments, _ = parse_call(freeanchor, ["--extra", "c5"], "test")
    assert arguments["bags"].select == "mean_max" and arguments["extra"] == "c5"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: mal(rule="code"), "knows the rules .* got 'code'"), (lambda: mal(loss="focal"), "got 'focal'"),
    (lambda: MultipleAnchor(alpha=2), "alpha in"), (lambda: MultipleAnchor(negatives="hard"), "got 'hard'"),
    (lambda: Towers(norm="batch"), "got 'batch'"),
])  # fmt: skip
def test_bad_options_are_named(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
