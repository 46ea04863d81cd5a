from __future__ import annotations

from pathlib import Path

from benchmarks.loading import measure
from bifocals.data import Data, open_split, save_scenes


def test_both_pipelines_run(tmp_path: Path) -> None:
    """The numbers belong to a quiet machine; here it counts that the same images come through both."""
    save_scenes(tmp_path, train=16, val=0, hw=(96, 128))
    annotations = open_split(Data(str(tmp_path)), "train", log=None)
    found = measure(annotations, 48, 64, images=16, rounds=1)
    assert set(found) == {
        f"{name} {kind}" for name in ("ours", "torchvision", "ratio") for kind in ("process", "worker")
    }
    assert all(value > 0 for value in found.values())
