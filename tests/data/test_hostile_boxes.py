"""Boxes that cannot be right, in every format; and those that are only a little over the edge."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.small_set import HEIGHT, OBJECTS, WIDTH, SmallSet, voc_xml, yolo_line


def spoil(small: SmallSet, box: tuple[float, float, float, float]) -> str:
    """Gives the only object of image 1 this box (xyxy) and returns the record's name."""
    x1, y1, x2, y2 = box
    if small.format == "coco":
        content = json.loads(small.source(1).read_text())
        content["annotations"][2]["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        small.source(1).write_text(json.dumps(content))
        return "annotation 102"
    if small.format == "voc":
        small.source(1).write_text(voc_xml("1", [(box, 1)]))
        return "object 1"
    small.source(1).write_text("\n" + yolo_line(box, 1))
    return "line 2"


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 10, 20), "positive width and height"),
        ((10, 10, 20, 10), "positive width and height"),
        ((30, 10, 20, 20), "positive width and height"),
        ((10, 30, 20, 20), "positive width and height"),
        ((WIDTH + 5, 10, WIDTH + 20, 20), f"inside the image of {WIDTH}x{HEIGHT}"),
        ((-30, 10, -3, 20), f"inside the image of {WIDTH}x{HEIGHT}"),
        ((10, 10, WIDTH + 3, 20), f"inside the image of {WIDTH}x{HEIGHT}"),
        ((10, 10, 20, HEIGHT + 2.5), f"inside the image of {WIDTH}x{HEIGHT}"),
        ((-2.5, 10, 20, 20), f"inside the image of {WIDTH}x{HEIGHT}"),
        ((WIDTH, 10, WIDTH + 1.5, 20), f"inside the image of {WIDTH}x{HEIGHT}"),
    ],
)
def test_impossible_boxes(small: SmallSet, box: tuple[float, float, float, float], expected: str) -> None:
    record = spoil(small, box)
    center = (box[0] + box[2]) / 2
    if small.format == "yolo" and (box[0] > box[2] or box[1] > box[3] or not 0 <= center <= WIDTH):
        expected = "shares of the image from 0 to 1"  # each number by itself is caught first
    source = small.source(1).relative_to(small.root).as_posix()
    defect = small.one_defect(source, record, expected, left_out=1)
    if expected.startswith("inside") and small.format == "voc":
        assert f"xmax {box[2]:.8g}" in defect.value
    if small.format == "coco":
        assert f"[{box[0]:.8g}, {box[1]:.8g}, {box[2] - box[0]:.8g}, {box[3] - box[1]:.8g}]" in defect.value


@pytest.mark.parametrize("box", [(-1.9, -2, 20, 20), (40, 30, WIDTH + 2, HEIGHT + 1.5), (-1, 0, WIDTH - 1, HEIGHT)])
def test_small_overhang_is_clipped(small: SmallSet, box: tuple[float, float, float, float]) -> None:
    spoil(small, box)
    boxes, _, _ = small.open().objects(1)
    expected = np.clip(np.array([box]), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    np.testing.assert_allclose(boxes, expected, atol=1e-5)


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-Infinity"])
def test_numbers_that_are_none(small: SmallSet, word: str) -> None:
    if small.format == "coco":
        small.source(1).write_text(small.source(1).read_text().replace("[2, 2, 10, 12]", f"[2, {word}, 10, 12]"))
        record = "annotation 102"
    elif small.format == "voc":
        small.source(1).write_text(small.source(1).read_text().replace("<ymin>2<", f"<ymin>{word}<"))
        record = "object 1"
    else:
        small.source(1).write_text(f"1 0.5 {word} 0.2 0.2\n")
        record = "line 1"
    defect = small.one_defect(record, left_out=1)
    assert word.lower().removesuffix("inity") in defect.value.lower()


def test_crowd_and_difficult_are_kept_apart(coco: SmallSet) -> None:
    text = coco.source(0).read_text().replace('"iscrowd": 0, "id": 104', '"iscrowd": 1, "id": 104')
    coco.source(0).write_text(text)
    annotations = coco.open()
    assert annotations.objects(2)[2].tolist() == [False, True, False]
    assert "5 objects" in annotations.summary()


def test_voc_difficult_is_crowd(voc: SmallSet) -> None:
    voc.source(1).write_text(voc.source(1).read_text().replace("<difficult>0", "<difficult>1"))
    assert voc.open().objects(1)[2].tolist() == [True]


def test_voc_coordinates(voc: SmallSet) -> None:
    x1, y1, x2, y2 = OBJECTS[1][0][0]
    assert voc.open().objects(1)[0].tolist() == [[x1, y1, x2, y2]]
    assert voc.open(one_based=True).objects(1)[0].tolist() == [[x1 - 1, y1 - 1, x2, y2]]


def test_image_without_annotation_is_a_background(small: SmallSet) -> None:
    if small.format == "coco":
        content = json.loads(small.source(1).read_text())
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 11]
        small.source(1).write_text(json.dumps(content))
    elif small.format == "voc":
        small.source(1).write_text(voc_xml("1", []))
    else:
        small.source(1).unlink()
    annotations = small.open()
    assert np.diff(annotations.offsets).tolist() == [2, 0, 3]


def test_every_image_defective(small: SmallSet) -> None:
    for i in range(3):
        small.image(i).write_bytes(b"")
    with pytest.raises(ValueError, match="none is left"):
        small.open(on_defect="skip")
