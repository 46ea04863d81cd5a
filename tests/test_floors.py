"""Imports only go down the floors, and never sideways on floor 1; files stay short; no room of odds and ends."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bifocals"
FLOORS = {
    "structures": 0,
    "assign": 1, "losses": 1, "balance": 1, "objective": 1, "networks": 1, "data": 1,
    "predict": 2, "evaluate": 2,
    "train": 3, "search": 3, "export": 3, "report": 3, "check": 3,
    "recipes": 4,
    "cli": 5,
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def rooms_imported(path: Path) -> set[str]:
    """Rooms of the package that a file names in an import, wherever the import stands."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "bifocals":
                names = [f"bifocals.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names = [".".join([*parts[: len(parts) - node.level], *([node.module] if node.module else [])])]
        else:
            continue
        rooms |= {n.split(".")[1] for n in names if n.startswith("bifocals.")}
    return rooms & set(FLOORS)


def test_every_folder_is_a_room():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path):
    if path.parent == PACKAGE:
        pytest.skip("the package itself names its rooms")
    mine = path.relative_to(PACKAGE).parts[0]
    for room in rooms_imported(path) - {mine}:
        down = FLOORS[room] < FLOORS[mine] or (FLOORS[room] == FLOORS[mine] and FLOORS[mine] > 1)
        assert down, f"{path.relative_to(PACKAGE)} on floor {FLOORS[mine]} imports {room} on floor {FLOORS[room]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_named(path: Path):
    assert len(path.read_text(encoding="utf8").splitlines()) < 400
    assert path.stem not in {"utils", "misc", "helpers", "common", "base"}


def test_tyro_stays_in_the_command_line():
    users = {p.relative_to(PACKAGE).parts[0] for p in FILES if "import tyro" in p.read_text(encoding="utf8")}
    assert users <= {"cli"}
