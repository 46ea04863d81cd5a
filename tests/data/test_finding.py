"""Formats and splits are found from the folder, and said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bifocals.data import Data, DataError, check_dataset, has_split, open_split
from tests.data.small_set import SmallSet, coco_content, picture, voc_xml


def opened(root: Path, split: str, **options: object) -> tuple[list[str], list[str], tuple[str, ...]]:
    lines: list[str] = []
    annotations = open_split(Data(root=str(root), **options), split, log=lines.append)  # type: ignore[arg-type]
    return sorted(annotations.files), lines, annotations.classes


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        picture(seed=sum(name.encode())).save(folder / name)  # two splits never share one
    return folder


def coco_file(path: Path, name: str = "0.jpg", categories: tuple[tuple[int, str], ...] = ((3, "cat"),)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"id": 1, "file_name": name, "width": 64, "height": 48}],
        "annotations": [{"id": i, "image_id": 1, "category_id": c, "bbox": [1, 1, 20, 20]} for i, (c, _) in
                        enumerate(categories)],
        "categories": [{"id": c, "name": n} for c, n in categories],
    }  # fmt: skip
    path.write_text(json.dumps(content))


def test_the_evidence_is_printed(small: SmallSet) -> None:
    small.open()
    first, last = small.lines[0], small.lines[-1]
    assert f"is {small.format}:" in first
    evidence = {"coco": "annotations/instances_train2017.json", "voc": "Annotations/*.xml", "yolo": "data.yaml"}
    assert evidence[small.format] in first
    assert "3 images, 6 objects of 2 classes, 0 crowd regions, 0 images without annotation" in last


def test_coco_2017_layout_with_other_tasks_beside(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        pictures(tmp_path / split, f"{split}.jpg")
        coco_file(tmp_path / "annotations" / f"instances_{split}.json", f"{split}.jpg")
        for other in ("captions", "person_keypoints"):
            coco_file(tmp_path / "annotations" / f"{other}_{split}.json", "no.jpg")
    (tmp_path / "annotations" / "image_info_test2017.json").write_text("{}")
    assert opened(tmp_path, "train")[0] == ["train2017.jpg"]
    assert opened(tmp_path, "val")[0] == ["val2017.jpg"]
    with pytest.raises(ValueError, match="expected a test split, got instances_train2017, instances_val2017"):
        opened(tmp_path, "test")


def test_roboflow_coco_layout(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        pictures(tmp_path / split, f"{split}.jpg")
        coco_file(tmp_path / split / "_annotations.coco.json", f"{split}.jpg")
    assert [opened(tmp_path, s)[0] for s in ("train", "val", "test")] == [["train.jpg"], ["valid.jpg"], ["test.jpg"]]


@pytest.mark.parametrize("folder", ["images", "JPEGImages", "photos", "."])
def test_one_json_and_a_folder_of_pictures(tmp_path: Path, folder: str) -> None:
    pictures(tmp_path / folder, "0.jpg")
    coco_file(tmp_path / "labels.json")
    files, lines, _ = opened(tmp_path, "train")
    assert files == ["0.jpg"]
    assert any("1 of 1 file names" in line for line in lines)
    with pytest.raises(ValueError, match="--data.holdout"):
        opened(tmp_path, "val")


def test_pictures_elsewhere_are_named_by_an_option(tmp_path: Path) -> None:
    pictures(tmp_path / "disk", "0.jpg")
    coco_file(tmp_path / "set" / "labels.json")
    with pytest.raises(DataError, match=r"labels\.json: .*--data\.images"):
        opened(tmp_path / "set", "train")
    assert opened(tmp_path / "set", "train", images=str(tmp_path / "disk"))[0] == ["0.jpg"]
    with pytest.raises(ValueError, match="data.images expected a folder"):
        opened(tmp_path / "set", "train", images="nowhere")


def test_voc_layout(voc: SmallSet) -> None:
    lists = voc.root / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("0\n1\n2\n")
    (lists / "train.txt").write_text("0\n2\n")
    (lists / "val.txt").write_text("1\n")
    (lists / "cat_train.txt").write_text("0 1\n")
    assert opened(voc.root, "train")[0] == ["0.jpg", "2.jpg"]
    assert opened(voc.root, "val")[0] == ["1.jpg"]
    assert opened(voc.root, "train", train="trainval")[0] == ["0.jpg", "1.jpg", "2.jpg"]
    assert opened(voc.root, "train", train="ImageSets/Main/val.txt")[0] == ["1.jpg"]
    with pytest.raises(ValueError, match="data.train expected a split or an annotation file, got 'traim'"):
        opened(voc.root, "train", train="traim")


def test_voc_without_lists(voc: SmallSet) -> None:
    shutil.rmtree(voc.root / "ImageSets")
    files, lines, _ = opened(voc.root, "train")
    assert len(files) == 3
    assert "without ImageSets/Main" in lines[0]


def test_voc_with_pictures_beside_the_xml(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        pictures(tmp_path / split, f"{split}.jpg")
        (tmp_path / split / f"{split}.xml").write_text(voc_xml(f"{split}.jpg", [((1, 1, 20, 20), 0)]))
    assert opened(tmp_path, "train")[0] == ["train.jpg"]
    assert opened(tmp_path, "val")[0] == ["valid.jpg"]


def test_yolo_layout_with_splits_inside_out(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        pictures(tmp_path / split / "images", "0.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    assert opened(tmp_path, "train")[0] == ["train/images/0.jpg"]
    assert opened(tmp_path, "val")[0] == ["valid/images/0.jpg"]


def test_yolo_without_yaml(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pictures(tmp_path / "images" / split, f"{split}.jpg")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / f"{split}.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert opened(tmp_path, "val")[::2] == (["images/val/val.jpg"], ("cat", "dog"))


def test_two_formats_need_a_choice(voc: SmallSet) -> None:
    (voc.root / "train.json").write_text(json.dumps(coco_content()))
    with pytest.raises(ValueError, match=r"2 formats .*--data\.format"):
        voc.open()
    assert len(voc.open(format="voc")) == 3
    assert len(voc.open(format="coco")) == 3


def test_yaml_of_something_else_does_not_disturb(coco: SmallSet) -> None:
    (coco.root / "training.yaml").write_text("lr: 0.1\nnames: unknown\n")
    assert len(coco.open()) == 3


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(ValueError, match=r"expected annotations/\*\.json.*Annotations/\*\.xml.*data\.yaml.*readme\.md"):
        opened(tmp_path, "train")
    with pytest.raises(ValueError, match="data.root expected a folder"):
        opened(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="--data.root"):
        open_split(Data(), "train")


def test_two_files_for_one_split_need_a_choice(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "0.jpg")
    for name in ("old_train", "new_train"):
        coco_file(tmp_path / "annotations" / f"{name}.json")
    with pytest.raises(ValueError, match=r"data\.train expected one split, got new_train, old_train"):
        opened(tmp_path, "train")
    assert opened(tmp_path, "train", train="annotations/old_train.json")[0] == ["0.jpg"]


def test_val_takes_the_labels_of_train(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "0.jpg")
    coco_file(tmp_path / "annotations" / "train.json", categories=((5, "cat"), (9, "dog"), (2, "cow")))
    coco_file(tmp_path / "annotations" / "val.json", categories=((1, "dog"), (2, "cat")))
    lines: list[str] = []
    annotations = open_split(Data(root=str(tmp_path)), "val", log=lines.append)
    assert annotations.classes == ("cow", "cat", "dog")  # in the order of train's ids
    assert annotations.labels.tolist() == [2, 1]
    assert annotations.category_ids == (3, 2, 1)  # val's own ids; cow has none there
    assert has_split(Data(root=str(tmp_path)), "val")
    assert not has_split(Data(root=str(tmp_path)), "test")


def test_category_of_val_that_train_does_not_know(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "0.jpg", "1.jpg")
    coco_file(tmp_path / "annotations" / "train.json", categories=((5, "cat"),))
    coco_file(tmp_path / "annotations" / "val.json", "1.jpg", categories=((5, "cat"), (6, "fox")))
    with pytest.raises(DataError, match=r"val\.json: annotation 1: .*training set.* got category_id 6 'fox'"):
        opened(tmp_path, "val")
    assert len(check_dataset(tmp_path)) == 1


def test_holdout_splits_the_training_images(tmp_path: Path) -> None:
    content = coco_content()
    content["images"] = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(20)]
    content["annotations"] = [{"id": i, "image_id": i, "category_id": 3, "bbox": [i, 1, 9, 9]} for i in range(20)]
    (tmp_path / "all.json").write_text(json.dumps(content))
    pictures(tmp_path / "images", *(f"{i}.jpg" for i in range(20)))
    val, train = (opened(tmp_path, s, holdout=0.25)[0] for s in ("val", "train"))
    assert len(val) == 5
    assert sorted(val + train) == sorted(f"{i}.jpg" for i in range(20))
    assert opened(tmp_path, "val", holdout=0.25)[0] == val
    (tmp_path / "images" / val[0]).write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes"):
        opened(tmp_path, "val", holdout=0.25)
    assert opened(tmp_path, "val", holdout=0.25, on_defect="skip")[0] == val[1:]
    assert opened(tmp_path, "train", holdout=0.25)[0] == train


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"format": "odgt"}, "format"), ({"on_defect": "ignore"}, "on_defect"), ({"holdout": 1.0}, "holdout")],
)
def test_options_are_judged(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=f"Data expected {expected}"):
        Data(**options)  # type: ignore[arg-type]


def test_check_dataset_names_defects_of_all_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        pictures(tmp_path / split, f"{split}.jpg")
        coco_file(tmp_path / split / "_annotations.coco.json", f"{split}.jpg")
    assert check_dataset(tmp_path) == []
    (tmp_path / "valid" / "valid.jpg").write_bytes(b"")
    (tmp_path / "test" / "_annotations.coco.json").write_text("{")
    lines = [str(defect) for defect in check_dataset(tmp_path)]
    assert len(lines) == 2
    assert "valid.jpg" in lines[0]
    assert "test/_annotations.coco.json" in lines[1]


def test_many_defects_are_all_kept_and_a_hundred_are_shown(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"] = [{"id": i, "image_id": 10, "category_id": 3, "bbox": [1, 1, 0, 0]} for i in range(500)]
    (tmp_path / "train.json").write_text(json.dumps(content))
    pictures(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg")
    with pytest.raises(DataError, match="500 defects") as caught:
        opened(tmp_path, "train")
    assert len(caught.value.defects) == 500
    assert str(caught.value).count("\n") == 101
    assert str(caught.value).endswith("and 400 more")
