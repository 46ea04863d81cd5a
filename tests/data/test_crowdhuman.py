"""CrowdHuman's odgt: what is read, where it is found, and what is wrong with a file, line and box."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bifocals.data import (
    Annotations,
    Data,
    DataError,
    Defect,
    DetectionDataset,
    Input,
    check_dataset,
    eval_transform,
    has_split,
    load_crowdhuman,
    open_split,
    save_crowdhuman,
    train_transform,
)
from bifocals.evaluate import crowd_metrics
from bifocals.structures import Detections
from tests.data.small_set import HEIGHT, WIDTH, picture

IDS = ("273271,c9db000d5146c15", "273278,c7c5a000d5bcbd1a", "273275,d0bf5000a4ea0ec9")


def person(fbox: list[float], vbox: list[float] | None = None, **extra: int) -> dict[str, Any]:
    return {"tag": "person", "fbox": fbox, "vbox": vbox or fbox, "hbox": [1, 1, 2, 2], "head_attr": {"ignore": 0},
            "extra": {"box_id": 0, "occ": 0, **extra}}  # fmt: skip


def mask(fbox: list[float]) -> dict[str, Any]:
    return {"tag": "mask", "fbox": fbox, "vbox": fbox, "hbox": fbox, "extra": {"ignore": 1}}


# The second picture's body reaches over three edges; the third has a mask and an ignored person.
PEOPLE = [
    [person([4, 6, 26, 34]), person([20, 10, 40, 34], [22, 10, 38, 30])],
    [person([-10, 20, 90, 60], [0, 20, 60, 28])],
    [person([8, 8, 32, 22]), mask([1, 1, 62, 46]), person([30, 20, 20, 20], ignore=1)],
]


class Crowd:
    """Three pictures with their people, to be spoilt by a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.odgt = root / "annotation_train.odgt"
        (root / "Images").mkdir(parents=True)
        for i, name in enumerate(IDS):
            picture(seed=i).save(root / "Images" / f"{name}.jpg")
        self.logged: list[str] = []
        self.write()

    def write(self, people: list[list[dict[str, Any]]] = PEOPLE, split: str = "train") -> None:
        lines = [json.dumps({"ID": name, "gtboxes": boxes}) for name, boxes in zip(IDS, people, strict=True)]
        self.odgt.with_name(f"annotation_{split}.odgt").write_text("\n".join(lines) + "\n")

    def line(self, number: int, text: str) -> None:
        lines = self.odgt.read_text().splitlines()
        lines[number - 1] = text
        self.odgt.write_text("\n".join(lines) + "\n")

    def open(self, **options: Any) -> Annotations:
        self.logged.clear()
        return open_split(Data(root=str(self.root), **options), "train", log=self.logged.append)

    def one_defect(self, *expected: str, left: int) -> Defect:
        """Asserts one defect whose line holds all of `expected`, and how many images skip leaves."""
        with pytest.raises(DataError) as caught:
            self.open()
        [defect] = caught.value.defects
        line = str(defect)
        assert line.isprintable() and all(text in line for text in expected), line
        assert [str(d) for d in check_dataset(self.root)] == [line]
        if defect.fatal:
            with pytest.raises(DataError):
                self.open(on_defect="skip")
        else:
            assert len(self.open(on_defect="skip")) == left
        return defect


@pytest.fixture
def crowd(tmp_path: Path) -> Crowd:
    return Crowd(tmp_path / "CrowdHuman")


def test_what_is_read(crowd: Crowd) -> None:
    annotations = crowd.open()
    assert list(annotations.files) == [f"Images/{name}.jpg" for name in IDS]
    assert annotations.classes == ("person",)
    assert annotations.sizes_hw.tolist() == [[HEIGHT, WIDTH]] * 3
    assert annotations.objects(0)[0].tolist() == [[4, 6, 30, 40], [20, 10, 60, 44]]
    assert annotations.objects(1)[0].tolist() == [[-10, 20, 80, 80]]  # as it is: the metric cuts it
    assert annotations.area[2] == 90 * 60
    assert annotations.objects(2)[2].tolist() == [False, True, True]
    assert "crowdhuman: annotation_train.odgt" in crowd.logged[0]
    assert "3 in Images" in crowd.logged[1]
    assert "3 images, 4 objects of 1 classes, 2 crowd regions" in crowd.logged[-1]


def test_visible_boxes(crowd: Crowd) -> None:
    annotations = load_crowdhuman(crowd.odgt, box="visible")
    assert annotations.objects(0)[0].tolist() == [[4, 6, 30, 40], [22, 10, 60, 40]]
    assert annotations.objects(1)[0].tolist() == [[0, 20, 60, 48]]
    with pytest.raises(ValueError, match="full or visible, got 'head'"):
        load_crowdhuman(crowd.odgt, box="head")  # type: ignore[arg-type]


def test_training_sees_the_part_inside_and_drops_who_is_outside(crowd: Crowd) -> None:
    """Cut after mirroring and resizing; a body without a pixel inside is dropped, its annotation is not."""
    outside = [WIDTH + 5, 0, 30, 40]
    crowd.write([PEOPLE[0], [*PEOPLE[1], person(outside)], PEOPLE[2]])  # type: ignore[list-item]
    annotations = crowd.open()
    assert len(annotations.objects(1)[0]) == 2
    dataset = DetectionDataset(annotations, train_transform(Input(2 * HEIGHT, 2 * WIDTH)), seed=3)
    for epoch in range(4):
        _, target = dataset[epoch, 1]
        assert target.boxes.tolist() == [[0, 40, 2 * WIDTH, 2 * HEIGHT]]
        assert target.labels.tolist() == [0]
    cropped = DetectionDataset(annotations, train_transform(Input(HEIGHT, WIDTH, augment="detr")), seed=3)
    for epoch in range(8):
        _, target = cropped[epoch, 1]
        height, width = target.size_hw
        assert (target.boxes >= 0).all()
        assert (target.boxes <= torch.tensor([width, height, width, height])).all()
    _, target = DetectionDataset(annotations, train_transform(Input(HEIGHT, WIDTH, augment="none")))[0, 2]
    assert target.without_crowd().boxes.tolist() == [[8, 8, 40, 30]]


def test_the_metric_sees_the_whole_annotation(crowd: Crowd) -> None:
    annotations = crowd.open()
    image, target = DetectionDataset(annotations, eval_transform(Input(HEIGHT, WIDTH)))[0, 1]
    assert image.shape[-2:] == (HEIGHT, WIDTH)
    seen = torch.tensor([[0.0, 20, WIDTH, HEIGHT]])
    found = {target.image_id: Detections(seen, torch.tensor([0.9]), torch.tensor([0]))}
    assert crowd_metrics(found, annotations).recall == pytest.approx(1 / 4)


@pytest.mark.parametrize("folder", ["images", "train", "train/Images", "images/train", "Images/train", "."])
def test_where_pictures_are_looked_for(crowd: Crowd, folder: str) -> None:
    (crowd.root / "Images").rename(crowd.root / "moved")
    (crowd.root / folder).mkdir(parents=True, exist_ok=True)
    for file in (crowd.root / "moved").iterdir():
        file.rename(crowd.root / folder / file.name)
    files = crowd.open().files
    assert files[0] == (f"{folder}/{IDS[0]}.jpg" if folder != "." else f"{IDS[0]}.jpg")


def test_archives_unpacked_side_by_side(crowd: Crowd) -> None:
    for i, name in enumerate(IDS):
        folder = crowd.root / f"CrowdHuman_train0{i % 2 + 1}" / "Images"
        folder.mkdir(parents=True, exist_ok=True)
        (crowd.root / "Images" / f"{name}.jpg").rename(folder / f"{name}.jpg")
    files = crowd.open().files
    assert [file.split("/")[0] for file in files] == [f"CrowdHuman_train0{k}" for k in (1, 2, 1)]
    assert "2 in CrowdHuman_train01/Images, 1 in CrowdHuman_train02/Images" in crowd.logged[1]


def test_a_folder_that_is_named(crowd: Crowd, tmp_path: Path) -> None:
    (crowd.root / "Images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="got none of 3 in .*; name the folder with --data.images"):
        crowd.open()
    annotations = crowd.open(images=str(tmp_path / "elsewhere"))
    assert annotations.image_path(0) == tmp_path / "elsewhere" / f"{IDS[0]}.jpg"
    loaded = load_crowdhuman(crowd.odgt, tmp_path / "elsewhere")
    assert loaded.fingerprint() == annotations.fingerprint()


def test_both_splits_and_a_folder_of_annotations(crowd: Crowd) -> None:
    crowd.write(split="val")
    data = Data(root=str(crowd.root))
    assert has_split(data, "val") and not has_split(data, "test")
    assert len(open_split(data, "val", log=None)) == 3
    assert open_split(data, "val", log=None, classes=("cat", "person")).labels.tolist() == [1] * 6
    (crowd.root / "annotations").mkdir()
    for split in ("train", "val"):
        path = crowd.root / f"annotation_{split}.odgt"
        path.rename(crowd.root / "annotations" / path.name)
    assert len(crowd.open()) == len(load_crowdhuman(crowd.root / "annotations" / "annotation_val.odgt")) == 3
    (crowd.root / "annotations" / "train.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="2 formats .*crowdhuman.*choose one with --data.format"):
        crowd.open()
    assert len(crowd.open(format="crowdhuman")) == 3


def test_classes_without_person(crowd: Crowd) -> None:
    with pytest.raises(DataError, match="6 boxes: expected one of the 1 classes of the training set, got 'person'"):
        crowd.open(classes=("cat",))


def test_blank_lines_byte_order_mark_and_line_ends(crowd: Crowd) -> None:
    text = crowd.odgt.read_bytes()
    crowd.odgt.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n\r\n  \n"))
    assert len(crowd.open().boxes) == 6


def test_people_without_extra_count_and_an_image_may_be_empty(crowd: Crowd) -> None:
    plain = {"tag": "person", "fbox": [1.5, 2, 3, 4]}
    crowd.write([[plain, {**plain, "extra": {}}, {**plain, "extra": None}, {**plain, "extra": {"ignore": True}},
                  {**plain, "tag": "mask"}], [], PEOPLE[2]])  # fmt: skip
    annotations = crowd.open()
    assert annotations.objects(0)[2].tolist() == [False, False, False, True, True]
    assert np.diff(annotations.offsets).tolist() == [5, 0, 3]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ({"tag": "person"}, ("expected the field fbox",)),
        ({"fbox": [1, 2, 3, 4]}, ("expected the field tag",)),
        ({"tag": "horse", "fbox": [1, 2, 3, 4]}, ("as tag", "horse")),
        ({"tag": "person", "fbox": [1, 2, 3]}, ("length 4", "as fbox", "[1, 2, 3]")),
        ({"tag": "person", "fbox": [1, 2, 3, "4"]}, ("as fbox", "str")),
        ({"tag": "person", "fbox": [1, 2, 3, None]}, ("as fbox",)),
        ({"tag": "person", "fbox": [1, 2, 3, 4], "extra": {"ignore": 2}}, ("as extra", "2")),
        ({"tag": "person", "fbox": [1, 2, 3, 4], "extra": {"ignore": "1"}}, ("as extra",)),
        ({"tag": "person", "fbox": [1, 2, 1e300, 4]}, ("pixels from -1000000 to 1000000", "1e+300")),
        ({"tag": "person", "fbox": [1, 2, 0, 4]}, ("positive width and height", "fbox [1, 2, 0, 4]")),
        ({"tag": "person", "fbox": [1, 2, 3, -4]}, ("positive width and height", "fbox [1, 2, 3, -4]")),
        (["person"], ("object", "array")),
        (7, ("object", "int")),
    ],
)
def test_wrong_boxes(crowd: Crowd, box: Any, expected: tuple[str, ...]) -> None:
    crowd.write([PEOPLE[0], [*PEOPLE[1], box], PEOPLE[2]])
    crowd.one_defect("annotation_train.odgt:2", "box 2", f"{IDS[1]}.jpg", *expected, left=2)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none(crowd: Crowd, word: str) -> None:
    crowd.odgt.write_text(crowd.odgt.read_text().replace("[-10, 20, 90, 60]", f"[-10, 20, {word}, 60]"))
    line = 'box 1' if word == "1e999" else "line"
    crowd.one_defect("annotation_train.odgt:2", line, left=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", ("annotation_train.odgt:2: line",)),
        ('{"ID": "1", "gtboxes": [{"tag"', ("annotation_train.odgt:2: line",)),
        ("[]", ("annotation_train.odgt:2: line", "object", "array")),
        ("hello", ("annotation_train.odgt:2: line", "expected valid JSON")),
        ('{"gtboxes": []}', ("annotation_train.odgt:2: line", "expected the field ID")),
        ('{"ID": 7, "gtboxes": []}', ("annotation_train.odgt:2: line", "as ID")),
        (f'{{"ID": "{IDS[1]}"}}', ("annotation_train.odgt:2: line", "expected the field gtboxes")),
        (f'{{"ID": "{IDS[1]}", "gtboxes": {{}}}}', ("annotation_train.odgt:2: line", "as gtboxes")),
        ('{"ID": "", "gtboxes": []}', ("annotation_train.odgt:2: ID", "expected a file name")),
        ('{"ID": "../../etc/passwd", "gtboxes": []}', ("ID", "stays in the images folder", "../../etc/passwd")),
        ('{"ID": "/etc/passwd", "gtboxes": []}', ("ID", "relative to the images folder", "/etc/passwd")),
        ('{"ID": "C:\\\\x", "gtboxes": []}', ("ID", "relative to the images folder")),
        ('{"ID": "a\\u0000b", "gtboxes": []}', ("ID", "expected a file name")),
        ("[" * 200_000, ("annotation_train.odgt:2: line",)),
        ('{"ID": "1", "gtboxes": [' + "[" * 200_000, ("annotation_train.odgt:2: line",)),
    ],
)
def test_wrong_lines(crowd: Crowd, text: str, expected: tuple[str, ...]) -> None:
    crowd.line(2, text)
    crowd.one_defect(*expected, left=2)


def test_not_utf8(crowd: Crowd) -> None:
    crowd.odgt.write_bytes(crowd.odgt.read_bytes().replace(b"c7c5", b"\xff\xfe\xfd\xfc"))
    crowd.one_defect("annotation_train.odgt:2: line", left=2)


def test_an_id_given_twice(crowd: Crowd) -> None:
    crowd.line(3, crowd.odgt.read_text().splitlines()[0])
    crowd.one_defect("annotation_train.odgt:3: ID", "each ID once", f"{IDS[0]} again, after line 1", left=1)


def test_a_picture_that_is_not_there(crowd: Crowd) -> None:
    (crowd.root / "Images" / f"{IDS[1]}.jpg").unlink()
    crowd.one_defect(f"Images/{IDS[1]}.jpg", "no such file", left=2)


def test_a_picture_that_is_a_link_out_of_the_set(crowd: Crowd, tmp_path: Path) -> None:
    file = crowd.root / "Images" / f"{IDS[1]}.jpg"
    file.rename(tmp_path / "secret.jpg")
    file.symlink_to(tmp_path / "secret.jpg")
    crowd.one_defect("stays in the data set", "secret.jpg", left=2)


def test_files_that_are_none(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bifocals.data.crowdhuman._LONGEST", 200)
    crowd.one_defect("annotation_train.odgt: line 1", "expected at most 200 bytes", left=0)
    crowd.odgt.write_text("")
    crowd.one_defect("annotation_train.odgt: file", "a JSON object a line, got an empty file", left=0)
    crowd.odgt.unlink()
    crowd.odgt.mkdir()
    crowd.one_defect("annotation_train.odgt: file", "expected a readable file", left=0)


def test_round_trip(crowd: Crowd, tmp_path: Path) -> None:
    before, seen = crowd.open(), load_crowdhuman(crowd.odgt, box="visible")
    path = save_crowdhuman(before, tmp_path / "copy", "val", visible=seen.boxes)
    assert path == tmp_path / "copy" / "annotation_val.odgt"
    after = load_crowdhuman(path)
    assert list(after.files) == list(before.files)
    np.testing.assert_allclose(after.boxes, before.boxes, rtol=0, atol=1e-9)
    assert after.crowd.tolist() == before.crowd.tolist()
    assert after.offsets.tolist() == before.offsets.tolist()
    assert after.sizes_hw.tolist() == before.sizes_hw.tolist()
    np.testing.assert_allclose(load_crowdhuman(path, box="visible").boxes, seen.boxes, rtol=0, atol=1e-9)
    boxes = json.loads(path.read_text().splitlines()[2])["gtboxes"]
    assert [(box["tag"], box["extra"]["ignore"]) for box in boxes] == [("person", 0), ("mask", 1), ("mask", 1)]
    without = save_crowdhuman(before, tmp_path / "other", copy_images=False)
    with pytest.raises(DataError, match="expected the field vbox"):
        load_crowdhuman(without, crowd.root / "Images", box="visible")
    assert not (tmp_path / "other" / "Images").exists()


def test_what_cannot_be_saved(crowd: Crowd, tmp_path: Path) -> None:
    annotations = crowd.open()
    for change, message in (
        ({"classes": ("cat",)}, "the class person alone, got \\['cat'\\]"),
        ({"files": ["a.jpg", "b.jpg", "c.png"]}, "end in .jpg, got c.png"),
        ({"files": ["a/0.jpg", "b.jpg", "b/0.jpg"]}, "got b/0.jpg and a/0.jpg"),
    ):
        with pytest.raises(ValueError, match=message):
            save_crowdhuman(replace(annotations, **change), tmp_path / "copy")
    with pytest.raises(ValueError, match=r"a visible box for each object, \(6, 4\), got \(5, 4\)"):
        save_crowdhuman(annotations, tmp_path / "copy", visible=annotations.boxes[1:])
    assert not (tmp_path / "copy").exists()


def test_options_are_judged() -> None:
    with pytest.raises(ValueError, match="auto or one of coco, crowdhuman, voc, yolo, .*label-folder, got 'odgt'"):
        Data(format="odgt")  # type: ignore[arg-type]


def test_a_set_of_nobody(crowd: Crowd) -> None:
    crowd.odgt.write_text(f'{{"ID": "{IDS[0]}", "gtboxes": []}}\n')
    metrics = crowd_metrics({}, crowd.open())
    assert math.isnan(metrics.ap50)
