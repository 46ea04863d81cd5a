"""The counts that the README of the shared data names. Skipped where it is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifocals.data import Data, DataError, DetectionDataset, Input, check_dataset, eval_transform, open_split


def folder(shared: Path, name: str) -> str:
    path = shared / "data" / name
    if not path.is_dir():
        pytest.skip(f"no {name} in {shared}")
    return str(path)


def test_bccd(shared: Path) -> None:
    root = folder(shared, "bccd")
    for split, images in (("train", 205 - 1), ("val", 87 - 1), ("test", 72)):
        annotations = open_split(Data(root=root, on_defect="skip"), split, log=None)  # type: ignore[arg-type]
        assert len(annotations) == images
        assert annotations.classes == ("Platelets", "RBC", "WBC")
        assert (annotations.sizes_hw == (480, 640)).all()
        assert np.diff(annotations.offsets).max() <= 30
    with pytest.raises(DataError, match=r"BloodImage_00343\.xml"):
        open_split(Data(root=root), "train", log=None)
    found = [str(defect) for defect in check_dataset(root)]
    assert len(found) == 2
    assert "BloodImage_00343.xml: object 4" in found[0]
    assert "BloodImage_00338.xml: object 13" in found[1]
    assert all("xmax" in line for line in found)


def test_facemask(shared: Path) -> None:
    data = Data(root=folder(shared, "facemask"))
    train, val = open_split(data, "train", log=None), open_split(data, "val", log=None)
    assert (len(train), len(val), len(train.boxes) + len(val.boxes)) == (677, 171, 4021)
    assert np.diff(np.concatenate([train.offsets, val.offsets[1:] + train.offsets[-1]])).max() == 115
    assert sorted(np.bincount(train.labels).tolist()) == [103, 560, 2443]


def test_coco128(shared: Path) -> None:
    lines: list[str] = []
    annotations = open_split(Data(root=folder(shared, "coco128")), "train", log=lines.append)
    assert len(annotations) == 128
    assert len(annotations.boxes) == 939
    assert len(np.unique(annotations.labels)) == 71
    assert int(annotations.crowd.sum()) == 10
    assert len(annotations.classes) == 80
    assert annotations.category_ids[-1] == 90
    assert (np.diff(annotations.offsets) == 0).any()
    assert any("90->79 toothbrush" in line for line in lines)
    dataset = DetectionDataset(annotations, eval_transform(Input(64, 96)))
    for i in range(128):  # one of them is gray
        image, target = dataset[0, i]
        assert image.shape[0] == 3
        assert image.shape[1:] == target.size_hw
    val = open_split(Data(root=folder(shared, "coco128")), "val", log=None)
    assert val.fingerprint() == annotations.fingerprint()


def test_occlusion(shared: Path) -> None:
    data = Data(root=folder(shared, "occlusion"))
    train, val = open_split(data, "train", log=None, whole=False), open_split(data, "val", log=None, whole=False)
    assert (len(train), len(val)) == (320, 80)
    assert train.classes == val.classes == ("human",)
