"""Checkpoints: folders of plain files that are complete and verified, or not there.

    checkpoints/step-00000123/
        model.safetensors    weights of the network under its own names, loadable without this package
        ema.safetensors      their moving average, where there is one
        state.safetensors    optimizer tensors by parameter name, objective buffers, random states
        state.json           step, counts and other numbers
        manifest.json        sha256 and size of each file, and of itself

A checkpoint is written under a temporary name, synced, and renamed; the last two are kept. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .durable import sync_folder, write_file

MANIFEST = "manifest.json"
FOLDER = re.compile(r"step-(\d{8,})")


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was written; the message names file, expected and found hash."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its files in memory, as they were written."""

    folder: Path
    step: int
    files: Mapping[str, bytes]


def checkpoints_folder(workdir: Path) -> Path:
    return workdir / "checkpoints"


def list_checkpoints(workdir: Path) -> list[tuple[int, Path]]:
    """(step, folder) of each finished checkpoint, damaged or not, in order of the step."""
    folder = checkpoints_folder(workdir)
    if not folder.is_dir():
        return []
    found = ((FOLDER.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match and path.is_dir())


def save_checkpoint(workdir: Path, step: int, files: Mapping[str, bytes], keep: int = 2) -> Path:
    """Writes a checkpoint and removes those before the last `keep`.

    OSError, in one sentence, where it cannot be written; the checkpoints that were there stay as they are.
    """
    folder = checkpoints_folder(workdir)
    final = folder / f"step-{step:08d}"
    temporary = folder / f".writing-{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(workdir)
        remove_leftovers(workdir)
        temporary.mkdir()
        for name, content in files.items():
            write_file(temporary / name, content)
        write_file(temporary / MANIFEST, make_manifest(files))
        sync_folder(temporary)
        if final.exists():
            _remove(final)
        os.rename(temporary, final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = [path.name for _, path in list_checkpoints(workdir)]
        raise OSError(error.errno, f"the checkpoint of step {step} could not be written to {folder} "
                      f"({error.strerror or error}); {f'{kept[-1]} is as it was' if kept else 'there is none yet'}."
                      ) from error
    for _, path in list_checkpoints(workdir)[:-keep]:
        _remove(path)
    return final


def remove_leftovers(workdir: Path) -> None:
    """Removes what processes that were killed while writing or removing left behind."""
    folder = checkpoints_folder(workdir)
    for path in [*folder.glob(".writing-*"), *folder.glob(".removing-*")] if folder.is_dir() else []:
        shutil.rmtree(path)


def _remove(folder: Path) -> None:
    # Renamed first: killed half-way through, it must not look like a damaged checkpoint.
    doomed = folder.with_name(f".removing-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def make_manifest(files: Mapping[str, bytes]) -> bytes:
    """JSON with sha256 and size of each file; its own sha256 is that of the text with this field empty."""
    entries = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in sorted(files.items())}
    empty = _manifest_text(entries, "")
    return _manifest_text(entries, hashlib.sha256(empty).hexdigest())


def _manifest_text(entries: Mapping[str, object], own: str) -> bytes:
    return json.dumps({"files": entries, "sha256": own}, indent=1, sort_keys=True).encode()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint and verifies each byte of it. DamagedCheckpoint, in one line, if it is not whole."""
    match = FOLDER.fullmatch(folder.name)
    assert match, folder
    entries = _read_manifest(folder)
    files = {}
    for name, entry in entries.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedCheckpoint(f"{folder / name}: expected sha256 {entry['sha256']}, got no readable file "
                                    f"({error.strerror or error}).") from error
        got = hashlib.sha256(content).hexdigest()
        if got != entry["sha256"]:
            raise DamagedCheckpoint(f"{folder / name}: expected sha256 {entry['sha256']} ({entry['bytes']} bytes), "
                                    f"got {got} ({len(content)} bytes).")
        files[name] = content
    return Checkpoint(folder, int(match[1]), files)


def _read_manifest(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: expected a manifest, got no readable file ({error.strerror}).") from error
    try:
        manifest = json.loads(content)
        entries, own = manifest["files"], manifest["sha256"]
        expected = hashlib.sha256(_manifest_text(entries, "")).hexdigest()
        # The whole text is compared, so that a byte changed between the values is seen too.
        whole = own == expected and content == _manifest_text(entries, own)
    except (ValueError, KeyError, TypeError, RecursionError):
        own, expected, whole = "", "a manifest in JSON", False
    if not whole or any(Path(name).name != name for name in entries):
        got = own if own and own != expected else hashlib.sha256(content).hexdigest()
        raise DamagedCheckpoint(f"{path}: expected sha256 {expected} as its own, got {got}.")
    return entries


def latest_checkpoint(workdir: Path, say: Callable[[str], None] = print) -> Checkpoint | None:
    """The last checkpoint that is whole, or None where none was ever finished.

    Each damaged one is named in one line. DamagedCheckpoint if there are checkpoints and none is whole: the run is
    not silently started over.
    """
    found = list_checkpoints(workdir)
    for i, (_, folder) in reversed(list(enumerate(found))):
        try:
            return read_checkpoint(folder)
        except DamagedCheckpoint as error:
            before = f"falling back to {found[i - 1][1].name}" if i else "no earlier one is left"
            say(f"damaged checkpoint: {error} {before[0].upper()}{before[1:]}.")
    if found:
        raise DamagedCheckpoint(f"{checkpoints_folder(workdir)} expected a whole checkpoint, got "
                                f"{[path.name for _, path in found]}, all damaged; start anew with another "
                                "--run.workdir, or put a good copy back.")
    return None


def set_aside_damaged(workdir: Path, good: int) -> None:
    """Renames checkpoints after step `good`, which were found damaged, so that they are not read again."""
    for step, folder in list_checkpoints(workdir):
        if step > good:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(folder, aside)
