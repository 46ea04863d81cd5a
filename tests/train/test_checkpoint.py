"""A checkpoint is whole and verified or not there; the one before it is never touched."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from bifocals.train import DamagedCheckpoint, checkpoint
from bifocals.train.checkpoint import latest_checkpoint, list_checkpoints, save_checkpoint

FILES = {"model.safetensors": b"weights" * 50, "state.safetensors": b"moments" * 99, "state.json": b'{"step": 1}'}


def steps(workdir: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(workdir)]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_saved_comes_back_and_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {**FILES, "state.json": b"%d" % step})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.files) == (3, {**FILES, "state.json": b"3"})
    assert steps(tmp_path) == [2, 3]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, FILES)
    assert steps(tmp_path) == [99_999_999, 100_000_000]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_falls_back_with_one_clear_line(tmp_path, name, place):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, FILES)
    path = tmp_path / "checkpoints" / "step-00000002" / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    said: list[str] = []
    found = latest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "\n" not in said[0]
    for part in (str(path), "expected sha256", "got", "Falling back to step-00000001"):
        assert part in said[0]


def test_every_byte_of_the_manifest_counts(tmp_path):
    folder = save_checkpoint(tmp_path, 1, {"state.json": b"{}"})
    content = (folder / "manifest.json").read_bytes()
    for i in range(len(content)):
        for mask in (1, 32, 128):
            (folder / "manifest.json").write_bytes(content[:i] + bytes([content[i] ^ mask]) + content[i + 1 :])
            with pytest.raises(DamagedCheckpoint):
                checkpoint.read_checkpoint(folder)


@pytest.mark.parametrize("harm", ["truncated", "empty", "missing", "deep"])
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_other_harm_falls_back_too(tmp_path, name, harm):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, FILES)
    path = tmp_path / "checkpoints" / "step-00000002" / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-1], "empty": b"", "deep": b"[" * 100_000}[harm])
    said: list[str] = []
    found = latest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert str(path) in said[0]


def test_none_whole_is_an_error_and_not_a_new_start(tmp_path):
    for step in (1, 2):
        (save_checkpoint(tmp_path, step, FILES) / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"'step-00000001', 'step-00000002'\], all damaged"):
        latest_checkpoint(tmp_path, lambda line: None)


def test_nothing_saved_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def failing(real, after: int):
    """The function, failing as on a full disk from call number `after` on."""
    calls = iter(range(10_000))

    def fails(*args, **kwargs):
        if next(calls) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    return fails


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("what", ["write_file", "sync_folder"])
def test_a_full_disk_leaves_the_previous_as_it_was(tmp_path, monkeypatch, what, after):
    save_checkpoint(tmp_path, 1, FILES)
    before = everything(tmp_path)
    monkeypatch.setattr(checkpoint, what, failing(getattr(checkpoint, what), after))
    calls = 4 if what == "write_file" else 3
    if after >= calls:
        save_checkpoint(tmp_path, 2, FILES)
        assert steps(tmp_path) == [1, 2]
        return
    with pytest.raises(OSError, match=r"step 2 could not be written to .*No space left on device.*is as it was"):
        save_checkpoint(tmp_path, 2, FILES)
    after_rename = what == "sync_folder" and after == 2
    assert {n: c for n, c in everything(tmp_path).items() if "step-00000002" not in n} == before
    assert steps(tmp_path) == ([1, 2] if after_rename else [1])
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_real_full_device(tmp_path, monkeypatch):
    """/dev/full refuses every byte, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    save_checkpoint(tmp_path, 1, FILES)
    real = open

    def full(path, mode="r", *args, **kwargs):
        return real("/dev/full" if "w" in mode and Path(path).name == "state.safetensors" else path, mode, *args,
                    **kwargs)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, FILES)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.files == FILES


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, FILES)
    before = everything(tmp_path)
    if os.geteuid() == 0:  # permissions do not bind the superuser
        def refuse(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        (tmp_path / "checkpoints").chmod(0o500)
    try:
        with pytest.raises(OSError, match="Permission denied"):
            save_checkpoint(tmp_path, 2, FILES)
    finally:
        (tmp_path / "checkpoints").chmod(0o700)
    assert everything(tmp_path) == before


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    save_checkpoint(tmp_path, 1, FILES)
    for name in (".writing-00000002", ".removing-step-00000000"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "model.safetensors").write_bytes(b"half")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    save_checkpoint(tmp_path, 2, FILES)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


def test_the_manifest_names_hash_and_size(tmp_path):
    folder = save_checkpoint(tmp_path, 7, {"state.json": b"abc"})
    entry = json.loads((folder / "manifest.json").read_text())["files"]["state.json"]
    # sha256 of "abc", FIPS 180-2, appendix B.1
    assert entry == {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    """Each file and the folder are on the disk before the rename, and the rename itself after it."""
    events = []
    real_sync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_sync(descriptor)

    def rename(source, target):
        events.append(f"rename to {Path(target).name}")
        real_rename(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc on this system")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    save_checkpoint(tmp_path, 5, FILES)
    assert events == [tmp_path.name, *FILES, "manifest.json", ".writing-00000005", "rename to step-00000005",
                      "checkpoints"]
