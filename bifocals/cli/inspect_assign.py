"""bifocals inspect assign WORKDIR|RECIPE --image FILE"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from bifocals.data import Data, DetectionDataset, eval_transform, find_image, open_split
from bifocals.evaluate import RIVALS, ImageAssignment, Rival, inspect_assignment
from bifocals.objective import Objective
from bifocals.predict import class_color
from bifocals.report import assignment_picture
from bifocals.train import Experiment, find_recipe, load, load_objective

from .check import load_part
from .find import parse_call, recipe_names, recipe_reference

PROG = "bifocals inspect assign"
COMPARED = ("own", "atss", "eatss", "fcos", "poto")

USAGE = """usage: bifocals inspect assign WORKDIR --image FILE [--split val] [--data.root DIR] [options]
       bifocals inspect assign RECIPE --data.root DIR --image FILE [--split val] [options] [recipe options]

Draws, for one image, which priors each assigner takes for each object, and what the losses let each of them count
(beta, omega, RCI and CF of HCRAL, and what other losses tell): a PNG and a JSON.

WORKDIR is a work directory of bifocals train: its weights, its data and the state of its losses. RECIPE is one of
{recipes}
or FILE.py:FUNCTION; then the network is fresh, of a fixed seed, so that its scores and weights say little.

bifocals inspect assign WORKDIR --help and bifocals inspect assign RECIPE --help list the options."""


@dataclass(frozen=True)
class Look:
    """What to look at."""

    image: str = ""
    """The image: its path, or its file name in the set, with or without the ending."""
    split: Literal["train", "val", "test"] = "val"
    """The part of the set that the image is in."""
    assigners: tuple[str, ...] = COMPARED
    """Whom to show: own (the branches of the experiment), atss, eatss, fcos, poto, poto_aux, min_cost, max_iou, bags,
    or FILE.py:NAME of an assigner of your own. They look at the priors of the network where these suit them, else at
    priors made at the points of its pyramid."""
    output: str = ""
    """The output of the network that others than own look at; the one for inference where none is named."""
    object: int | None = None
    """Number of the object that is shown close; by default one with extras of EATSS."""
    panel: int | None = None
    """Pixels of the longer side of a panel; by default such that points of the finest level stand apart."""
    out: Path | None = None
    """The PNG, and beside it the JSON; WORKDIR/assign-IMAGE.png or assign-RECIPE-IMAGE.png where none is named."""
    seed: int = 0
    """Of the weights of a fresh network."""


@dataclass(frozen=True)
class Subject:
    """What is looked at: a network and its supervision, where from, and where the picture goes by default."""

    network: nn.Module
    objective: Objective
    experiment: Experiment
    classes: tuple[str, ...] | None
    data: Data
    told: dict[str, Any]
    sentence: str
    out: str
    copies: int
    """Images that a loss saw at once in training."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(recipe_names())))
        return 0 if argv else 2
    name = argv[0]
    if (Path(name) / "run.json").is_file():
        return tyro.cli(inspect_run, args=argv, prog=PROG)
    if ".py:" not in name and name not in recipe_names():
        known = f"a recipe of {list(recipe_names())} or FILE.py:FUNCTION"
        raise ValueError(f"{PROG} expected a work directory of bifocals train (with run.json), {known}, got {name!r}.")
    return inspect_recipe(name, argv[1:])


def inspect_run(
    workdir: tyro.conf.Positional[Path],
    look: Annotated[Look, tyro.conf.arg(name="")] = Look(),
    data_root: Annotated[str, tyro.conf.arg(name="data.root")] = "",
    weights: Literal["best", "last"] | None = None,
) -> int:
    """Draws which priors each assigner takes for the objects of one image, and what the losses of a trained run let
    each of them count.

    Args:
        workdir: A work directory of bifocals train.
        data_root: Another folder than the one of the training.
        weights: best or last; the best where there are any.
    """
    _require_image(look)
    trained = load(workdir, weights)
    objective, state = load_objective(trained)
    data = replace(trained.experiment.data, root=data_root) if data_root else trained.experiment.data
    accumulate = int(trained.run_json["run"]["accumulate"])
    told = {"trained": True, "workdir": str(workdir), "weights": trained.weights, "step": trained.step, "state": state}
    sentence = f"{workdir}: {trained.weights} weights, of step {trained.step}; {state}"
    return show(look, Subject(trained.network, objective, trained.experiment, trained.classes, data, told, sentence,
                              str(workdir / "assign-"), trained.experiment.optim.batch_size // accumulate))


def inspect_recipe(name: str, argv: list[str]) -> int:
    """The same of a recipe with a fresh network."""
    recipe = find_recipe(recipe_reference(name))
    clash = sorted({f.name for f in fields(Look)} & set(inspect.signature(recipe).parameters))
    if clash:
        raise ValueError(f"{PROG} expected a recipe without arguments of its own options' names, got {clash}.")
    arguments, extra = parse_call(recipe, argv, f"{PROG} {name}",
                                  look=(Annotated[Look, tyro.conf.arg(name="")], Look()))
    experiment, look = recipe(**arguments), extra["look"]
    _require_image(look)
    if not experiment.data.root:
        print(f"{PROG} expected --data.root DIR, the folder of images and annotations, got none.", file=sys.stderr)
        return 2
    # The classes, and so the network, are known with the set alone.
    classes = open_split(experiment.data, look.split, log=None, whole=False).classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(look.seed)
        network = experiment.network(len(classes))
        began = "" if experiment.start is None else experiment.start(network)
    told = {"trained": False, "recipe": name, "seed": look.seed, "start": began}
    sentence = (f"{name}, a fresh network of seed {look.seed}: predictors know nothing yet, so that scores, IoU and "
                f"weights say little. {began}")
    short = Path(name.rsplit(":", 1)[-1]).name
    return show(look, Subject(network.eval(), experiment.objective().eval(), experiment, classes, experiment.data, told,
                              sentence, f"assign-{short}-", experiment.optim.batch_size))


def show(look: Look, subject: Subject) -> int:
    """Looks, writes picture and JSON, and prints what was found."""
    if subject.experiment.task != "detect":
        raise ValueError(f"{PROG} expected a detector, got an experiment for the task {subject.experiment.task!r}, in "
                         "which no prior answers for an object.")
    rivals = rivals_of(look.assigners)
    annotations = open_split(subject.data, look.split, classes=subject.classes, whole=False)
    index = find_image(annotations, look.image, f"the split {look.split} of {subject.data.root}",
                       "--split names another split")
    experiment = subject.experiment
    image, target = DetectionDataset(annotations, eval_transform(experiment.input))[(0, index)]
    found = inspect_assignment(
        subject.network, subject.objective, image, target, output=look.output or experiment.output,
        own="own" in look.assigners, rivals=rivals, drop_equal=look.assigners == COMPARED,
        copies=subject.copies,
    )
    file = annotations.files[index]
    out = look.out or Path(f"{subject.out}{Path(file).stem}.png")
    heading = [_image_line(found, file, look.split), subject.sentence]
    picture = assignment_picture(found, annotations.classes, heading=heading, panel=look.panel, focus=look.object)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out, "PNG")
    record = {"file": file, "split": look.split, "network": subject.told, "classes": list(annotations.classes),
              **found.to_json(annotations.classes)}
    for entry in record["objects"]:
        entry["color"] = "#{:02x}{:02x}{:02x}".format(*class_color(entry["object"]))
    path = out.with_suffix(".json")
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf8")
    for line in [*heading, *_lines(found)]:
        print(line)
    print(f"saved {out} and {path}")
    return 0


def rivals_of(names: tuple[str, ...]) -> dict[str, Rival]:
    """The assigners of these names but `own`. ValueError for a name that nobody has."""
    found = {}
    for name in names:
        if ".py:" in name:
            part: Any = load_part(name)
            found[name.rsplit(":", 1)[1]] = Rival(part() if isinstance(part, type) else part)
        elif name in RIVALS:
            found[name] = RIVALS[name]()
        elif name != "own":
            raise ValueError(f"--assigners knows own, {', '.join(RIVALS)} and FILE.py:NAME, got {name!r}.")
    return found


def _require_image(look: Look) -> None:
    if not look.image:
        raise ValueError(f"{PROG} expected --image with the name of an image of the set, got none.")
    rivals_of(look.assigners)  # what is wrong there is said before anything is loaded


def _image_line(found: ImageAssignment, file: str, split: str) -> str:
    (height, width), (full_height, full_width) = found.target.size_hw, found.target.original_hw
    regions = f", {len(found.target.regions)} crowd regions" if len(found.target.regions) else ""
    return (f"{file} ({split}, image {found.target.image_id}): {full_width}x{full_height}, seen as {width}x{height}; "
            f"{len(found.target.labels)} objects{regions}")


def _lines(found: ImageAssignment) -> list[str]:
    number = len(found.target.labels)
    lines = []
    for choice in found.choices:
        without = choice.without(number)
        lines.append(f"  {choice.title}: {len(choice)} pairs, {int(choice.extra.sum())} extras, "
                     f"{len(without)} objects without ({choice.prior_words})")
    return lines + [f"  left out: {line}" for line in found.left_out]
