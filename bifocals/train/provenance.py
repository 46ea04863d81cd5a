"""Where a run comes from: enough in run.json to build the same experiment again, without unpickling anything."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, get_type_hints

import msgspec
import torch

from .experiment import Experiment

OWN_RECIPE = re.compile(r"(bifocals\.recipes\.[a-z][a-z0-9_]*):([A-Za-z][A-Za-z0-9_]*)")
FILE_RECIPE = re.compile(r"(.+\.py):([A-Za-z][A-Za-z0-9_]*)", re.DOTALL)


@dataclass(frozen=True)
class Provenance:
    """The recipe that made an experiment.

    recipe: "bifocals.recipes.date:date" or "path/my.py:nearest". arguments: the keyword arguments it was called with;
    those left out are recorded with their defaults. argv: the command line, where there was one.
    """

    recipe: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    argv: tuple[str, ...] = ()

    def resolved(self, say: Callable[[str], None] = print) -> dict[str, Any]:
        """All arguments of the recipe as JSON values. ValueError if they would not come back the same."""
        function = find_recipe(self.recipe, say)
        bound = inspect.signature(function).bind(**self.arguments)
        bound.apply_defaults()
        plain = _to_json(bound.arguments)
        back = _to_json(convert_arguments(function, plain))
        if back != plain:
            raise ValueError(f"Provenance expected arguments of {self.recipe} that JSON can hold, got "
                             f"{differences(plain, back)}.")
        return plain


def find_recipe(reference: str, say: Callable[[str], None] = print) -> Callable[..., Experiment]:
    """The function that a reference names; `say` is told when a file is executed for it.

    ValueError for anything but a public function of `bifocals.recipes.*` or of a .py file: a run.json from elsewhere
    cannot name code that was not meant as a recipe.
    """
    if match := OWN_RECIPE.fullmatch(reference):
        module_name, name = match[1], match[2]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
            raise ValueError(f"find_recipe expected a recipe of bifocals.recipes, got {reference!r}, and there is no "
                             f"module {module_name}.") from error
    elif match := FILE_RECIPE.fullmatch(reference):
        path, name = Path(match[1]), match[2]
        if not path.is_file():
            raise ValueError(f"find_recipe expected a file, got {reference!r}, and there is no {path} in {Path.cwd()}.")
        # Named by place and content: the same file is executed once, a changed one again.
        identity = str(path.resolve()).encode() + b"\0" + path.read_bytes()
        module_name = f"bifocals_recipe_{hashlib.sha256(identity).hexdigest()[:16]}"
        if module_name not in sys.modules:
            say(f"executing {path} for the recipe {name}")
            _execute(module_name, path)
        module = sys.modules[module_name]
    else:
        raise ValueError(f"find_recipe expected 'bifocals.recipes.NAME:FUNCTION' or 'FILE.py:FUNCTION', "
                         f"got {reference!r}.")
    function = getattr(module, name, None)
    if not inspect.isfunction(function) or function.__module__ != module_name:
        known = [n for n, f in vars(module).items()
                 if inspect.isfunction(f) and f.__module__ == module_name and not n.startswith("_")]
        raise ValueError(f"find_recipe expected a function defined in {match[1]}, got {name!r}; it has {known}.")
    return function


def _execute(module_name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def convert_arguments(function: Callable[..., Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values -> the types of the function's signature. ValueError names an argument that does not fit."""
    hints = get_type_hints(function)
    unknown = sorted(set(plain) - set(inspect.signature(function).parameters))
    if unknown:
        raise ValueError(f"{function.__name__} expected arguments {list(inspect.signature(function).parameters)}, "
                         f"got {unknown}.")
    converted = {}
    for name, value in plain.items():
        try:
            converted[name] = msgspec.convert(value, hints.get(name, Any), dec_hook=_decode)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            raise ValueError(f"{function.__name__} expected {name} to be {hints.get(name)}, got {value!r}: "
                             f"{error}.") from error
    return converted


def rebuild(record: Mapping[str, Any], say: Callable[[str], None] = print) -> Experiment:
    """The experiment that a run.json describes. ValueError if it names no recipe or values its recipe cannot take."""
    reference = record.get("recipe")
    if not isinstance(reference, str):
        raise ValueError(f"rebuild expected run.json to name a recipe, got {reference!r}: this run was started from "
                         "an Experiment object; pass it to load(..., experiment=...).")
    plain = record["arguments"]
    function = find_recipe(reference, say)
    then, now = record.get("recipe_sha256"), recipe_digest(reference)
    if then != now:
        say(f"{reference} has changed since the run: sha256 was {then}, is {now}")
    arguments = convert_arguments(function, plain)
    back = _to_json(arguments)
    if back != plain:
        raise ValueError(f"rebuild expected {reference} to take the values of run.json, "
                         f"got {differences(plain, back)}.")
    experiment = function(**arguments)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"rebuild expected {reference} to return an Experiment, got {type(experiment).__name__}.")
    return experiment


def recipe_digest(reference: str) -> str | None:
    """sha256 of the file of a recipe; None for our own, which the git state identifies."""
    match = FILE_RECIPE.fullmatch(reference)
    return hashlib.sha256(Path(match[1]).read_bytes()).hexdigest() if match else None


def describe(experiment: Experiment) -> dict[str, Any]:
    """The values of an experiment, without its closures, as JSON."""
    names = ("postprocess", "output", "input", "data", "optim", "epochs")
    return _to_json({name: getattr(experiment, name) for name in names})


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """One line for each value that differs between two JSON values: `optim.lr: 0.1 then, 0.2 now`."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = [*then, *(k for k in now if k not in then)]
        return [line for k in keys
                for line in differences(then.get(k), now.get(k), f"{path}.{k}" if path else str(k))]
    return [] if then == now else [f"{path}: {then!r} then, {now!r} now"]


def _to_json(value: Any) -> Any:
    # Through bytes and back: tuples become lists here and not only in the file.
    return msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(value, enc_hook=_encode)))


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"Provenance expected arguments that run.json can hold (numbers, text, paths, dataclasses), got "
                    f"a {type(value).__name__}.")


def _decode(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(value)
    raise TypeError(f"run.json holds no {kind}")


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Git state, versions and hardware of this session."""
    names = ("bifocals", "torch", "torchvision", "numpy", "pillow", "scipy", "safetensors", "timm")
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    hardware: dict[str, Any] = {
        "machine": platform.machine(), "system": platform.system(), "cpu": _cpu_name(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "device": str(device), "processes": processes,
    }
    if device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        properties = torch.cuda.get_device_properties(device)
        hardware |= {"gpu": properties.name, "gpu_bytes": properties.total_memory,
                     "gpus": torch.cuda.device_count()}
    return {"git": git_state(Path(__file__).parent), "versions": versions, "hardware": hardware}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that holds `folder`, and whether its files differ from it; None outside of one."""
    # Ignored files (a virtual environment inside a project) are not of the repository around them.
    if _git(folder, "check-ignore", "--quiet", str(folder)) is not None:
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
