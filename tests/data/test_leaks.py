"""Pictures that two splits share, and those that VOC 2012 has of VOC 2007."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bifocals.data import Data, DataError, check_dataset, open_split
from tests.data.small_set import SmallSet, picture


def split(root: Path, name: str, seeds: list[int]) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for seed in seeds:
        picture(seed=seed).save(folder / f"{name}{seed}.png")
    images = [{"id": s, "file_name": f"{name}{s}.png", "width": 64, "height": 48} for s in seeds]
    objects = [{"id": s, "image_id": s, "category_id": 1, "bbox": [1, 1, 20, 20]} for s in seeds]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def test_one_line_for_each_picture_of_two_splits(tmp_path: Path) -> None:
    split(tmp_path, "train", [1, 2, 3])
    split(tmp_path, "valid", [4, 2])
    split(tmp_path, "test", [5, 3, 4])
    what = "expected a picture that is in no other split, got"
    assert [str(defect) for defect in check_dataset(tmp_path)] == [
        f"valid/valid2.png: split val: {what} train/train2.png of split train",
        f"test/test3.png: split test: {what} train/train3.png of split train",
        f"test/test4.png: split test: {what} valid/valid4.png of split val",
    ]
    open_split(Data(root=str(tmp_path)), "val", log=None)  # training goes on: it is said where one asks


def test_what_is_no_leak(tmp_path: Path) -> None:
    split(tmp_path, "train", [1, 2])
    split(tmp_path, "valid", [3])
    shutil.copyfile(tmp_path / "train" / "train1.png", tmp_path / "train" / "train2.png")  # twice in one split
    assert check_dataset(tmp_path) == []


def test_files_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    split(tmp_path, "train", [1, 2])
    split(tmp_path, "valid", [3, 4])
    for path in (tmp_path / "train" / "train1.png", tmp_path / "valid" / "valid3.png"):
        path.write_bytes(b"")
    (tmp_path / "train" / "train2.png").unlink()
    (tmp_path / "valid" / "valid4.png").unlink()
    (tmp_path / "valid" / "valid4.png").symlink_to("/dev/zero")
    lines = [str(defect) for defect in check_dataset(tmp_path)]
    assert len(lines) == 4
    assert not any("no other split" in line for line in lines)


def rename(voc: SmallSet, names: list[str]) -> None:
    for i, name in enumerate(names):
        voc.image(i).rename(voc.image(i).with_stem(name))
        voc.source(i).rename(voc.source(i).with_stem(name))
    (voc.root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in names))


def test_pictures_of_2007_are_refused_in_training(voc: SmallSet) -> None:
    rename(voc, ["2007_000032", "2008_000001", "2007_000039"])
    with pytest.raises(DataError) as caught:
        voc.open()
    [defect] = caught.value.defects
    assert str(defect) == (
        "Annotations/2007_000032.xml: image: expected no picture of VOC 2007 in training, whose test set has some "
        "(--data.allow-2007 takes them), got 2007_000032.jpg and 1 more"
    )
    assert list(voc.open(on_defect="skip").files) == ["2008_000001.jpg"]
    assert len(voc.open(allow_2007=True)) == 3
    assert len(check_dataset(voc.root)) == 1


def test_2007_is_allowed_elsewhere(voc: SmallSet) -> None:
    rename(voc, ["2007_000032", "2008_000001", "2007_1"])
    lists = voc.root / "ImageSets" / "Main"
    (lists / "val.txt").write_text("2007_000032\n")
    (lists / "train.txt").write_text("2008_000001\n2007_1\n")
    assert len(voc.open()) == 2
    assert len(open_split(Data(root=str(voc.root)), "val", log=None)) == 1
