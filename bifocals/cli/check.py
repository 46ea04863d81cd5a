"""bifocals check dataset DIR, bifocals check FILE.py:NAME"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro
from torch import nn

from bifocals.check import check_assigner, check_balancer, check_loss, check_network
from bifocals.data import Data, check_dataset

USAGE = """usage: bifocals check dataset DIR [--format coco|voc|yolo|crowdhuman|camvid|...] [...]
       bifocals check FILE.py:NAME [--kind assigner|loss|balancer|network]

dataset   Looks at every record and every image of a data set, of boxes or of label maps, as bifocals train does before
          its first step, and prints one line for each defect: file, record, value. A picture that two splits share
          is one, too. Exit code 1 if there is any.

FILE.py:NAME   Runs the contract of its slot on a part of your own: a class that can be built without arguments, an
               object, or a function. An assigner takes (priors, target, prediction), a loss (matched), a balancer has
               observe, a network is a torch module that takes images. --kind says so where it cannot be seen."""

KINDS = ("assigner", "loss", "balancer", "network")


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] == "dataset":
        return tyro.cli(check_data, args=argv[1:], prog="bifocals check dataset")
    if ".py:" not in argv[0]:
        print(f"bifocals check expected 'dataset DIR' or FILE.py:NAME, got {argv[0]!r}.", file=sys.stderr)
        return 2
    return tyro.cli(check_part, args=argv, prog="bifocals check")


def check_data(
    root: tyro.conf.Positional[Path],
    format: Literal[
        "auto", "coco", "voc", "yolo", "crowdhuman", "cityscapes", "camvid", "voc-maps", "cocostuff", "label-folder"
    ] = "auto",
    classes: tuple[str, ...] = (),
    one_based: bool = False,
    masks: bool = False,
) -> int:
    """Looks at every record and every image of a data set and prints one line for each defect.

    Args:
        root: Folder of the set.
        format: auto finds it; cityscapes to label-folder are sets of label maps for segmentation.
        classes: Class names in the order of their labels; found in the set where not given.
        one_based: VOC coordinates count from 1.
        masks: Also look at the masks of objects, where a COCO JSON file has any.
    """
    defects = check_dataset(Data(str(root), format, classes=classes, one_based=one_based), masks=masks)
    for defect in defects:
        print(defect)
    print(f"{root}: {len(defects)} defects" if defects else f"{root}: sound")
    return 1 if defects else 0


def check_part(part: tyro.conf.Positional[str], kind: Literal["assigner", "loss", "balancer", "network"] | None = None,
               ) -> int:
    """Runs the contract of its slot on a part of your own.

    Args:
        part: FILE.py:NAME, a class that can be built without arguments, an object, or a function.
        kind: The slot it is made for, where it cannot be seen from the part.
    """
    thing = load_part(part)
    make: Callable[[], Any] = thing if inspect.isclass(thing) else lambda: thing
    slot = kind or kind_of(make())
    match slot:
        case "assigner":
            held = check_assigner(make())
        case "loss":
            held = check_loss(make)
        case "balancer":
            held = check_balancer(make)
        case "network":
            held = check_network(make)
    for line in held:
        print(f"holds: {line}")
    print(f"{part} keeps the contract of {'an' if slot[0] in 'aeiou' else 'a'} {slot}")
    return 0


def kind_of(part: Any) -> Literal["assigner", "loss", "balancer", "network"]:
    """The slot that a part's call fits. ValueError where that is not clear."""
    if hasattr(part, "observe"):
        return "balancer"
    call = part.forward if isinstance(part, nn.Module) else part
    if not callable(call):
        raise ValueError(f"bifocals check expected something to call, got a {type(part).__name__}.")
    names = [p.name for p in inspect.signature(call).parameters.values() if p.default is p.empty]
    if len(names) == 3:
        return "assigner"
    if isinstance(part, nn.Module) and names[:1] != ["matched"]:
        return "network"
    if len(names) == 1:
        return "loss"
    raise ValueError(f"bifocals check expected a call with (priors, target, prediction), (matched) or (images), got "
                     f"{names}; say --kind, one of {KINDS}.")


def load_part(reference: str) -> Any:
    """Executes a file and returns what it calls NAME. ValueError if there is no such file or name."""
    file, name = reference.rsplit(":", 1)
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"bifocals check expected a file, got {file!r}, which does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"bifocals check expected {file} to define {name!r}, got a file with "
                         f"{[n for n in vars(module) if not n.startswith('_')]}.")
    return getattr(module, name)
