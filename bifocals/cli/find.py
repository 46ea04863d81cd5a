"""From what a user types to a recipe, and from a recipe's signature to its command line."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import tyro

import bifocals.recipes
from bifocals.train import Experiment


def recipe_names() -> dict[str, str]:
    """Our recipes and their first line: modules of `bifocals.recipes` with a function of their own name that can be
    called without arguments."""
    folder = Path(next(iter(bifocals.recipes.__path__)))
    found = {}
    for module in pkgutil.iter_modules([str(folder)]):
        tree = ast.parse((folder / f"{module.name}.py").read_text(encoding="utf8"))
        for node in tree.body:
            if (isinstance(node, ast.FunctionDef) and node.name == module.name
                    and len(node.args.defaults) == len(node.args.args)):
                found[module.name] = (ast.get_docstring(node) or "").split("\n")[0]
    return found


def recipe_reference(name: str) -> str:
    """`date` -> "bifocals.recipes.date:date"; "my_work.py:nearest" stays. ValueError names the recipes there are."""
    if ".py:" in name:
        return name
    names = recipe_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"bifocals expected a recipe of {list(names)} or FILE.py:FUNCTION, got {name!r}{hint}")
    return f"bifocals.recipes.{name}:{name}"


def parse_call(
    function: Callable[..., Experiment], argv: Sequence[str], prog: str, **extra: tuple[Any, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a recipe, and those of `extra` (name -> type and default), from a command line.

    Every field of a dataclass is a flag, `--optim.lr`; the help comes from the docstrings. A dataclass with a name is
    also chosen by it: `--balance alwa1` is `--balance.name alwa1`. Ends the process with exit code 2 and a message for
    a command line that does not fit.
    """
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=p.default, annotation=hints[name])
        for name, p in signature.parameters.items()
    ]
    clash = sorted(set(extra) & set(signature.parameters))
    if clash:
        raise ValueError(f"{prog} expected a recipe without arguments called {sorted(extra)}, got one with {clash}.")
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in extra.items()
    ]

    def collect(**values: Any) -> dict[str, Any]:
        return values

    collect.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=dict[str, Any]
    )
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = function.__doc__
    values = tyro.cli(collect, args=[spelled_out(word, signature) for word in argv], prog=prog)
    return {n: values[n] for n in signature.parameters}, {n: values[n] for n in extra}


def spelled_out(word: str, signature: inspect.Signature) -> str:
    """`--balance` -> `--balance.name`, for each argument whose default is a dataclass with a name; others stay."""
    flag, *value = word.split("=", 1)
    parameter = signature.parameters.get(flag.removeprefix("--")) if flag.startswith("--") else None
    if parameter is None or not dataclasses.is_dataclass(parameter.default):
        return word
    named = any(f.name == "name" for f in dataclasses.fields(parameter.default))
    return "=".join([f"{flag}.name", *value]) if named else word
