from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bifocals.data import DataError, load_coco, save_coco
from bifocals.data.json_records import BadRecord, read_arrays
from tests.data.small_set import SmallSet, coco_content, picture

JSON = "annotations/instances_train2017.json"


def rewrite(coco: SmallSet, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(coco.source(0).read_text())
    change(content)
    coco.source(0).write_text(json.dumps(content))


def replace_text(coco: SmallSet, old: str, new: str) -> None:
    text = coco.source(0).read_text()
    assert old in text
    coco.source(0).write_text(text.replace(old, new, 1))


def test_ids_are_remapped_and_the_mapping_is_printed(coco: SmallSet) -> None:
    annotations = coco.open()
    assert annotations.category_ids == (3, 7)
    assert annotations.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert annotations.image_ids.tolist() == [10, 11, 12]
    assert any("3->0 cat, 7->1 dog" in line for line in coco.lines)
    assert annotations.area[0] == 26 * 34 / 2  # the file's own area, not the box's


def test_nan_area(coco: SmallSet) -> None:
    replace_text(coco, '"area": 60.0', '"area": NaN')
    coco.one_defect(JSON, "annotation 102", "NaN", left_out=1)


def test_negative_area(coco: SmallSet) -> None:
    replace_text(coco, '"area": 60.0', '"area": -1.5')
    coco.one_defect(JSON, "annotation 102", "area of 0 or more", "-1.5", left_out=1)


def test_number_out_of_range(coco: SmallSet) -> None:
    replace_text(coco, "[2, 2, 10, 12]", "[2, 1e999, 10, 12]")
    coco.one_defect(JSON, "annotation 102", "1e999", left_out=1)


@pytest.mark.parametrize("image_id_first", [True, False])
def test_deep_nesting(coco: SmallSet, image_id_first: bool) -> None:
    deep = '"segmentation": ' + "[" * 1_000_000 + "]" * 1_000_000
    old = '"image_id": 11, "category_id": 7'
    replace_text(coco, old, f"{old}, {deep}" if image_id_first else f"{deep}, {old}")
    coco.one_defect(JSON, "annotation 102", "1000001 levels", left_out=1)


def test_deep_nesting_in_a_part_that_is_not_read(coco: SmallSet) -> None:
    replace_text(coco, '"info": {}', '"info": ' + '{"a":[' * 500_000 + "]}" * 500_000)
    assert len(coco.open()) == 3


def test_deep_nesting_without_end(coco: SmallSet) -> None:
    coco.source(0).write_text('{"images": ' + "[" * 1_000_000)
    coco.one_defect(JSON, "images record 0", "the end of the file", left_out=None)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"bbox": [2, 2, 10, 12]', '"bbox": "2 2 10 12"', ("annotation 102", "as bbox", '"2 2 10 12"')),
        ('"bbox": [2, 2, 10, 12]', '"bbox": [2, 2, 10]', ("annotation 102", "as bbox", "[2, 2, 10]")),
        ('"bbox": [2, 2, 10, 12]', '"bbox": [2, null, 10, 12]', ("annotation 102", "as bbox", "null")),
        ('"bbox": [2, 2, 10, 12], ', "", ("annotation 102", "the field bbox")),
        ('"category_id": 7, "bbox": [2,', '"category_id": "d", "bbox": [2,', ("annotation 102", "category_id", '"d"')),
        ('"category_id": 7, "bbox": [2,', '"category_id": 7.5, "bbox": [2,', ("annotation 102", "category_id", "7.5")),
        ('"bbox": [2, 2, 10, 12]', '"bbox": [2, 2, 10, 12}', ("annotation 102", "valid JSON", "12}")),
        ('"id": 11, "file_name": "1.jpg"', '"id": 11, "file_name": 1', ("image 11", "file_name", "1")),
        ('"id": 11, "file_name": "1.jpg"', '"id": 11', ("image 11", "the field file_name")),
        ('"id": 11, "file_name": "1.jpg", "width": 64', '"id": 11, "file_name": "1.jpg", "width": "64"',
         ("image 11", "as width", '"64"')),
        ('"file_name": "1.jpg", "width": 64', '"file_name": "1.jpg", "width": -64', ("image 11", "width -64")),
        ('"file_name": "1.jpg", "width": 64, ', '"file_name": "1.jpg", ', ("image 11", "width None height 48")),
        ('"id": 102', '"id": 99999999999999999999', ("annotation 99999999999999999999", "as id")),
    ],
)  # fmt: skip
def test_wrong_types(coco: SmallSet, old: str, new: str, expected: tuple[str, ...]) -> None:
    replace_text(coco, old, new)
    coco.one_defect(JSON, *expected, left_out=1)


def test_wrong_type_that_hides_the_image_is_fatal(coco: SmallSet) -> None:
    # Whose annotation it is cannot be told, so no image is known to be complete.
    replace_text(coco, '"image_id": 11,', '"image_id": [11],')
    coco.one_defect(JSON, "annotation 102", "image_id", left_out=None)


def test_duplicate_image_id(coco: SmallSet) -> None:
    picture().save(coco.image(1).with_name("again.jpg"))
    rewrite(coco, lambda c: c["images"].append({"id": 11, "file_name": "again.jpg", "width": 64, "height": 48}))
    coco.one_defect(JSON, "image 11", "an id of its own", "1.jpg and again.jpg", left_out=1)


def test_duplicate_file_name(coco: SmallSet) -> None:
    rewrite(coco, lambda c: c["images"].append({"id": 99, "file_name": "1.jpg", "width": 64, "height": 48}))
    coco.one_defect(JSON, "images 11 and 99", "a file_name of its own", "1.jpg", left_out=1)


def test_duplicate_annotation_id(coco: SmallSet) -> None:
    rewrite(coco, lambda c: c["annotations"].append(c["annotations"][2] | {"bbox": [20, 20, 10, 10]}))
    coco.one_defect(JSON, "annotation 102", "an id of its own", "2 with the id 102", left_out=1)


def test_orphan_annotation(coco: SmallSet) -> None:
    rewrite(coco, lambda c: c["annotations"].append(c["annotations"][2] | {"id": 500, "image_id": 77}))
    coco.one_defect(JSON, "annotation 500", "an image_id that the file has", "77", left_out=None)


def test_unknown_category(coco: SmallSet) -> None:
    replace_text(coco, '"category_id": 7, "bbox": [2,', '"category_id": 9, "bbox": [2,')
    coco.one_defect(JSON, "annotation 102", "category_id 9", left_out=1)


@pytest.mark.parametrize(("key", "value"), [("id", 3), ("name", "cat")])
def test_category_given_twice(coco: SmallSet, key: str, value: Any) -> None:
    rewrite(coco, lambda c: c["categories"].append({"id": 5, "name": "cow"} | {key: value}))
    coco.one_defect(JSON, f"category {value}", f"a {key} of its own", left_out=None)


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "a/../../outside.jpg", "/etc/passwd", "C:\\x.jpg", "\\\\server\\x.jpg", "..\\x.jpg", ""]
)
def test_file_name_that_leaves_the_folder(coco: SmallSet, name: str) -> None:
    picture().save(coco.root / "outside.jpg")
    rewrite(coco, lambda c: c["images"][1].update(file_name=name))
    coco.one_defect(JSON, "image 11", "expected a file name", name or "nothing", left_out=1)


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "x\n.jpg"])
def test_file_name_of_strange_characters(coco: SmallSet, name: str) -> None:
    rewrite(coco, lambda c: c["images"][1].update(file_name=name))
    with pytest.raises(DataError) as caught:
        coco.open()
    (defect,) = caught.value.defects
    assert str(defect).isprintable()
    assert len(coco.open(on_defect="skip")) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "an empty file"),
        (b"[1, 2]", "a JSON object"),
        (b"<html>", "a JSON object"),
        (b'{"images": []}', "no annotations, categories"),
        (b'{"images": {}, "annotations": [], "categories": []}', "expected an array"),
        (b'{"images": [], "images": [], "annotations": [], "categories": []}', "a second time"),
        (b'{"images": [], "annotations": [{"id": 1, "im', "the end of the file"),
        (b'{"images": [], "annotations": [], "categories": [] ', "the end of the file"),
        (b'{"images": [1, 2] 3', "expected"),
        (b'{"images" []}', "expected ':'"),
    ],
)
def test_files_of_another_form(coco: SmallSet, content: bytes, expected: str) -> None:
    coco.source(0).write_bytes(content)
    with pytest.raises(DataError, match=JSON) as caught:
        coco.open(on_defect="skip")
    assert any(expected in str(defect) for defect in caught.value.defects), str(caught.value)


def test_string_that_would_fill_the_memory(coco: SmallSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bifocals.data.json_records._LONGEST", 3_000_000)
    replace_text(coco, '"1.jpg"', '"' + "x" * 8_000_000 + '"')
    coco.one_defect(JSON, "images record 1", "at most 3000000 bytes", left_out=None)


def test_byte_order_mark_and_any_order_of_keys(coco: SmallSet) -> None:
    content = json.loads(coco.source(0).read_text())
    turned = {key: content[key] for key in ("annotations", "categories", "info", "images")}
    coco.source(0).write_bytes(b"\xef\xbb\xbf" + json.dumps(turned, indent=2).encode())
    assert coco.open().labels.tolist() == [0, 1, 1, 0, 1, 0]


def test_size_not_annotated_is_filled_in(coco: SmallSet) -> None:
    rewrite(coco, lambda c: [image.pop(key) for image in c["images"] for key in ("width", "height")])
    assert coco.open().sizes_hw.tolist() == [[48, 64]] * 3


def test_heading_category_of_roboflow_is_left_out(coco: SmallSet) -> None:
    def change(content: dict[str, Any]) -> None:
        for category in content["categories"]:
            category["supercategory"] = "pets"
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})

    rewrite(coco, change)
    assert coco.open().classes == ("cat", "dog")
    assert any("'pets'" in line and "left out" in line for line in coco.lines)


def test_round_trip(coco: SmallSet, tmp_path: Path) -> None:
    rewrite(coco, lambda c: c["annotations"][3].update(iscrowd=1))
    before = coco.open()
    path = save_coco(before, tmp_path / "copy.json")
    after = load_coco(path, before.root)
    assert after.fingerprint() == before.fingerprint()
    np.testing.assert_array_equal(after.boxes, before.boxes)
    assert after.classes == before.classes
    assert after.category_ids == before.category_ids
    assert after.crowd.sum() == 1


def test_classes_of_a_model_are_matched_by_name(coco: SmallSet) -> None:
    annotations = load_coco(coco.source(0), coco.root / "train2017", classes=("bird", "dog", "cat"))
    assert annotations.labels.tolist() == [2, 1, 1, 2, 1, 2]
    assert annotations.category_ids == (8, 7, 3)  # an id that the file does not use
    with pytest.raises(DataError, match=r"category_id 3 'cat'"):
        load_coco(coco.source(0), coco.root / "train2017", classes=("dog",))


def test_large_file_with_a_few_bad_records(tmp_path: Path) -> None:
    """Blocks are decoded at once; a bad record costs only itself, wherever it lies."""
    number = 40_000
    bad = {0, 12_345, 39_999}
    content = coco_content()
    content["annotations"] = [
        {"segmentation": [[1.5] * 20, {"a": [{"b": "},{"}, {"c": '"'}]}], "id": i, "image_id": 10 + i % 3,
         "category_id": 3, "bbox": ["?" if i in bad else 1, 1, 20, 20], "iscrowd": 0}
        for i in range(number)
    ]  # fmt: skip
    path = tmp_path / "large.json"
    path.write_text(json.dumps(content))
    records: list[int] = []
    found: list[BadRecord] = []

    read_arrays(
        path,
        {"annotations": dict[str, Any]},
        lambda key, some: records.extend(record["id"] for record in some),
        lambda key, record: found.append(record),
    )
    assert records == list(range(number))
    assert not found
    with pytest.raises(DataError) as caught:
        load_coco(path)
    assert [defect.record for defect in caught.value.defects] == [f"annotation {i}" for i in sorted(bad)]
