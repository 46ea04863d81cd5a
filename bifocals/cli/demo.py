"""bifocals demo"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bifocals.data import Annotations, Data, Input, eval_transform, open_split, save_scenes
from bifocals.evaluate import Evaluation, evaluate
from bifocals.evaluate.evaluation import COMPARED_NMS
from bifocals.export import export_onnx
from bifocals.networks import Backbone, Towers
from bifocals.predict import predict
from bifocals.recipes import date, fcos
from bifocals.train import Experiment, Optim, Provenance, Run, Trained, fit, load

SIZE = 128
STEPS = 350
BATCH = 16


def run(argv: list[str]) -> int:
    tyro.cli(demo, args=argv, prog="bifocals demo")
    return 0


def demo(out: Path = Path("bifocals_demo"), steps: int = STEPS, images: int = 800, seed: int = 0) -> None:
    """Draws a crowded set, trains a small NMS-free DATE-F and a small FCOS from random weights on it, and compares both
    with and without NMS. Needs no download; with the default steps about four minutes on two cores.

    Writes OUT/data (the set, as COCO JSON), OUT/date and OUT/fcos (work directories), OUT/pictures and OUT/date.onnx.

    Args:
        out: Folder of everything that is written; one that the demo wrote before is replaced.
        steps: Training steps of each detector.
        images: Training scenes to draw.
        seed: Of scenes and weights.
    """
    start = time.perf_counter()
    clear(out)
    say("1", f"drawing {images} crowded scenes of {SIZE}x{SIZE} pixels into {out / 'data'}")
    save_scenes(out / "data", train=images, val=max(images // 8, 8), hw=(SIZE, SIZE), seed=seed)
    trained, scores = {}, {}
    for number, name in (("2", "date"), ("3", "fcos")):
        say(number, f"training {name}: {steps} steps from random weights")
        trained[name] = load(learn(name, out, steps, images, seed), say=quiet)
        val = open_split(trained[name].experiment.data, "val", log=None)
        scores[name] = score(trained[name], val)
    say("4", "what NMS is worth to each: DATE's one-to-one branch was trained to do without")
    print_scores(scores)
    pictures = [val.image_path(i) for i in range(min(8, len(val)))]
    for name, one in trained.items():
        draw(one, pictures, out / "pictures" / name)
    say("5", f"pictures of both, without NMS, on the same scenes: {out / 'pictures'}")
    ship(trained["date"], val, out / "date.onnx")
    print(f"\ndone in {(time.perf_counter() - start) / 60:.1f} minutes. Your own images:\n"
          "  bifocals train date --data.root DIR --run.workdir runs/mine")


def learn(name: str, out: Path, steps: int, images: int, seed: int) -> Path:
    """Trains one of the two; the same body, size, schedule and data order."""
    arguments = {
        "backbone": Backbone("resnet18", "pytorch", weights="none"),
        "towers": Towers(64, 2),
        "input": Input(SIZE, SIZE),
        "data": Data(str(out / "data")),
        "optim": Optim(lr=1e-3, batch_size=BATCH, backbone_lr_factor=1.0, clip_norm=1.0, schedule="cosine",
                       warmup_steps=20),
        "epochs": steps * BATCH / images,
    }
    recipe = {"date": date, "fcos": fcos}[name]
    experiment: Experiment = recipe(**arguments)  # type: ignore[operator]
    run = Run(str(out / name), seed=seed, precision="bf16", workers=1, log_every=50, eval_every=0)
    return fit(experiment, run, Provenance(f"bifocals.recipes.{name}:{name}", arguments, ("bifocals", "demo")))


def score(trained: Trained, val: Annotations) -> Evaluation:
    """Without NMS, judged: such an evaluation brings the numbers with NMS along."""
    experiment = trained.experiment
    return evaluate(trained.network, val, transform=eval_transform(experiment.input),
                    postprocess=experiment.postprocess, output=experiment.output, nms=None, trust=True,
                    batch_size=BATCH)


def print_scores(scores: dict[str, Evaluation]) -> None:
    table = Table()
    for column in ("detector", "NMS", "AP", "AP50", "AP75", "duplicates"):
        table.add_column(column, justify="left" if column in ("detector", "NMS") else "right")
    for name, found in scores.items():
        assert found.with_nms is not None
        for nms, result in (("none", found.result), (f"{COMPARED_NMS:g}", found.with_nms)):
            numbers = (f"{result.stats[key]:.3f}" for key in ("AP", "AP50", "AP75"))
            table.add_row(name, nms, *numbers, f"{found.duplicate_rate:.1%}" if nms == "none" else "")
    Console().print(table)
    print("duplicates: detections above .3 that overlap a better one of their class above .6 and match no object")
    for name, found in scores.items():
        assert found.trust is not None
        print(f"{name}: {found.trust.sentence()}")


def draw(trained: Trained, pictures: list[Path], out: Path) -> None:
    """Both without NMS: what the network itself says."""
    experiment = trained.experiment
    free = replace(experiment.postprocess[experiment.output], nms=None)
    predict(trained.network, pictures, transform=eval_transform(experiment.input), postprocess=free,
            output=experiment.output, classes=trained.classes, category_ids=trained.category_ids, out=out, log=quiet)


def ship(trained: Trained, val: Annotations, path: Path) -> None:
    experiment = trained.experiment
    say("6", f"exporting date without an NMS node: {path}")
    export_onnx(
        trained.network, path, output=experiment.output, postprocess=experiment.postprocess[experiment.output],
        input_hw=(SIZE, SIZE), images=[val.image_path(i) for i in range(min(6, len(val)))], classes=trained.classes,
        annotations=val, input=experiment.input,
    )


def clear(out: Path) -> None:
    """Removes what an earlier demo wrote. ValueError for a folder that is not a demo's."""
    mark = out / ".bifocals_demo"
    if out.exists() and any(out.iterdir()) and not mark.exists():
        raise ValueError(f"bifocals demo expected an empty folder or one of an earlier demo, got {out}, which holds "
                         "something else: name another with --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def say(number: str, text: str) -> None:
    print(f"\n[{number}/6] {text}")


def quiet(text: str) -> None:
    """The demo says what it does itself."""
