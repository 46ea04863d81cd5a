from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifocals.data import DataError, load_yolo, save_yolo
from tests.data.small_set import SmallSet

LINE = "1 0.5 0.5 0.25 0.5"


def test_byte_order_mark_and_crlf(yolo: SmallSet) -> None:
    yolo.source(1).write_bytes(b"\xef\xbb\xbf" + f"{LINE}\r\n0 0.5 0.5 0.1 0.1\r\n\r\n".encode())
    boxes, labels, _ = yolo.open().objects(1)
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(boxes[0], [24, 12, 40, 36])


def test_polygons_are_boxed_and_counted(yolo: SmallSet) -> None:
    yolo.source(1).write_text("1 0.25 0.25 0.5 0.125 0.75 0.5\n0 0.5 0.5 0.25 0.25\n")
    boxes, labels, _ = yolo.open().objects(1)
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(boxes[0], [16, 6, 48, 24])
    assert any("1 polygon" in line for line in yolo.lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1 0,5 0,5 0,25 0,5", ("with a decimal point", "0,5")),
        ("1,0.5,0.5,0.25,0.5", ("with a decimal point", "1,0.5")),
        ("2 0.5 0.5 0.25 0.5", ("a class from 0 to 1", "2")),
        ("-1 0.5 0.5 0.25 0.5", ("a class from 0 to 1", "-1")),
        ("1.5 0.5 0.5 0.25 0.5", ("a class from 0 to 1", "1.5")),
        ("dog 0.5 0.5 0.25 0.5", ("expected numbers", "dog")),
        ("1 320 240 50 60", ("shares of the image from 0 to 1", "320")),
        ("1 0.5 -0.2 0.25 0.5", ("shares of the image from 0 to 1", "-0.2")),
        ("1 0.5 0.5 0.25", ("expected 5 numbers", "4 numbers")),
        ("1 0.5 0.5 0.25 0.5 0.9", ("expected 5 numbers", "6 numbers")),
        ("1 0.1 0.1 0.2 0.2 0.3 0.3 0.4", ("expected 5 numbers", "8 numbers")),
        ("1 0.5 0.5 1e999 0.5", ("shares of the image from 0 to 1", "1e999")),
        ("1 0.5 0.5 0x1 0.5", ("expected numbers", "0x1")),
    ],
)
def test_wrong_lines(yolo: SmallSet, line: str, expected: tuple[str, ...]) -> None:
    yolo.source(1).write_text(f"{LINE}\n{line}\n")
    yolo.one_defect("labels/train/1.txt", "line 2", *expected, left_out=1)


@pytest.mark.parametrize("content", [b"\xff\xfe1\x00 \x00", b"1 0.5 0.5 \xff 0.5"])
def test_not_utf8(yolo: SmallSet, content: bytes) -> None:
    yolo.source(1).write_bytes(content)
    yolo.one_defect("labels/train/1.txt", "text in UTF-8", left_out=1)


def test_label_that_is_a_link_out_of_the_set(yolo: SmallSet, tmp_path: Path) -> None:
    yolo.source(1).rename(tmp_path / "secret.txt")
    yolo.source(1).symlink_to(tmp_path / "secret.txt")
    yolo.one_defect("labels/train/1.txt", "stays in the data set", "secret.txt", left_out=1)


def test_orphan_label_file(yolo: SmallSet) -> None:
    yolo.source(1).with_name("extra.txt").write_text(LINE)
    yolo.one_defect("labels/train/extra.txt", "a picture with the name of the label file", left_out=None)


def test_no_label_at_all_is_no_set_of_backgrounds(yolo: SmallSet) -> None:
    (yolo.root / "labels").rename(yolo.root / "lables")
    with pytest.raises(DataError, match="none for 3 pictures"):
        yolo.open(on_defect="skip")


def list_of(yolo: SmallSet, *names: str) -> None:
    (yolo.root / "train.txt").write_text("".join(f"{name}\r\n" for name in names))
    (yolo.root / "data.yaml").write_text("train: train.txt\nnames: {0: cat, 1: dog}\n")


def test_list_of_pictures(yolo: SmallSet) -> None:
    list_of(yolo, "./images/train/2.jpg", "images/train/0.jpg", str(yolo.image(1)))
    assert [name[-5:] for name in yolo.open().files] == ["2.jpg", "0.jpg", "1.jpg"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "images\\..\\..\\x.jpg"])
def test_listed_name_that_leaves_the_folder(yolo: SmallSet, name: str) -> None:
    list_of(yolo, "images/train/0.jpg", name, "images/train/2.jpg")
    yolo.one_defect("train.txt", "line 2", "expected a file name", name, left_out=1)


def test_listed_twice(yolo: SmallSet) -> None:
    list_of(yolo, "images/train/0.jpg", "images/train/1.jpg", "images/train/2.jpg", "images/train/1.jpg")
    yolo.one_defect("train.txt", "line 4", "each picture once", "images/train/1.jpg", left_out=None)


@pytest.mark.parametrize("entry", ["../../../etc", "/etc", "nowhere"])
def test_folder_that_is_not_in_the_set(yolo: SmallSet, entry: str) -> None:
    (yolo.root / "data.yaml").write_text(f"train: {entry}\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=f"data.yaml: train: .*{entry}"):
        yolo.open(on_defect="skip")


def test_roboflow_writes_paths_from_one_folder_up(yolo: SmallSet) -> None:
    (yolo.root / "data.yaml").write_text("train: ../images/train\nnc: 2\nnames: [cat, dog]\n")
    assert len(yolo.open()) == 3


def test_path_of_another_machine_is_passed_over(yolo: SmallSet) -> None:
    (yolo.root / "data.yaml").write_text("path: /somebody/else\ntrain: images/train\nnames: [cat, dog]\n")
    assert len(yolo.open()) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping"),
        ("- a\n- b\n", "expected a mapping"),
        ("train: images/train\n", "list of class names"),
        ("train: images/train\nnames: [cat, cat]\n", "each class name once"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc to be the number of names, 2, got 3"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "keys 0 to 1"),
        ("train: [images\n", "expected YAML"),
        ("train: images/train\nnames: !!python/object/apply:os.system ['true']\n", "expected YAML"),
        ("[" * 100_000, "expected YAML"),
    ],
)
def test_broken_yaml(yolo: SmallSet, text: str, expected: str) -> None:
    (yolo.root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match="data.yaml") as caught:
        yolo.open()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_of_nested_references(yolo: SmallSet) -> None:
    layers = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 40))
    (yolo.root / "data.yaml").write_text(f"l0: &l0 [x]\n{layers}train: images/train\nnames: *l39\n")
    with pytest.raises(DataError, match="list of class names"):
        yolo.open()


def test_round_trip(yolo: SmallSet, tmp_path: Path) -> None:
    before = yolo.open()
    path = save_yolo(before, tmp_path / "copy", "val")
    after = load_yolo(path, "val")
    np.testing.assert_allclose(after.boxes, before.boxes, rtol=0, atol=1e-9)
    assert after.labels.tolist() == before.labels.tolist()
    assert after.offsets.tolist() == before.offsets.tolist()
    assert after.sizes_hw.tolist() == before.sizes_hw.tolist()
    assert after.classes == before.classes
    save_yolo(before, tmp_path / "copy", "train")
    assert len(load_yolo(tmp_path / "copy", "train")) == 3


def test_crowd_cannot_be_saved_silently(voc: SmallSet, tmp_path: Path) -> None:
    voc.source(1).write_text(voc.source(1).read_text().replace("<difficult>0", "<difficult>1"))
    annotations = voc.open()
    with pytest.raises(ValueError, match="no crowd regions, .* got 1"):
        save_yolo(annotations, tmp_path / "copy")
    assert len(load_yolo(save_yolo(annotations, tmp_path / "other", crowd="drop")).boxes) == 5
