from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifocals.data import DataError, load_voc, save_voc
from tests.data.small_set import SmallSet, picture


def replace_text(voc: SmallSet, old: str, new: str) -> None:
    text = voc.source(1).read_text()
    assert old in text
    voc.source(1).write_text(text.replace(old, new, 1))


BILLION_LAUGHS = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><filename>&c;</filename></annotation>"""
EXTERNAL = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>'
HARMLESS = '<!DOCTYPE annotation SYSTEM "voc.dtd"><annotation></annotation>'


@pytest.mark.parametrize("text", [BILLION_LAUGHS, EXTERNAL, HARMLESS])
def test_dtd(voc: SmallSet, text: str) -> None:
    voc.source(1).write_text(text)
    voc.one_defect("Annotations/1.xml", "without a DTD", "DOCTYPE", left_out=1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "readable XML"),
        (b"<annotation><object>", "readable XML"),
        (b"\x00\xff\xfe", "readable XML"),
        (b"<?xml version='1.0' encoding='no-such'?><annotation/>", "readable XML"),
        (b"<html></html>", "<html>"),
    ],
)
def test_broken_xml(voc: SmallSet, content: bytes, expected: str) -> None:
    voc.source(1).write_bytes(content)
    voc.one_defect("Annotations/1.xml", "file", expected, left_out=1)


def test_deep_nesting(voc: SmallSet) -> None:
    voc.source(1).write_text("<annotation>" + "<a>" * 1_000_000 + "</a>" * 1_000_000 + "</annotation>")
    assert len(voc.open()) == 3  # harmless: nobody looks into what is not asked for


def test_missing_xml(voc: SmallSet) -> None:
    voc.source(1).unlink()
    voc.one_defect("Annotations/1.xml", "no such file", left_out=1)


def test_xml_that_is_a_link_out_of_the_set(voc: SmallSet, tmp_path: Path) -> None:
    voc.source(1).rename(tmp_path / "secret.xml")
    voc.source(1).symlink_to(tmp_path / "secret.xml")
    voc.one_defect("Annotations/1.xml", "stays in the data set", "secret.xml", left_out=1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("<xmin>2</xmin>", "<xmin>two</xmin>", ("object 1 (dog)", "a number as xmin", "two")),
        ("<xmin>2</xmin>", "<xmin>2,5</xmin>", ("object 1 (dog)", "a number as xmin", "2,5")),
        ("<xmin>2</xmin>", "", ("object 1 (dog)", "a number as xmin", "nothing")),
        ("<name>dog</name>", "<name> </name>", ("object 1", "a class name", "nothing")),
        ("<width>64</width>", "<width>wide</width>", ("size", "positive width and height", "wide")),
        ("<width>64</width>", "<width>-64</width>", ("size", "positive width and height", "-64")),
    ],
)
def test_wrong_values(voc: SmallSet, old: str, new: str, expected: tuple[str, ...]) -> None:
    replace_text(voc, old, new)
    voc.one_defect("Annotations/1.xml", *expected, left_out=1)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x"])
def test_listed_name_that_leaves_the_folder(voc: SmallSet, name: str) -> None:
    (voc.root / "ImageSets" / "Main" / "train.txt").write_text(f"0\n{name}\n2\n")
    voc.one_defect("ImageSets/Main/train.txt", "line 2", "expected a file name", name, left_out=1)


@pytest.mark.parametrize("name", ["../../outside.jpg", "/etc/passwd", "C:\\x.jpg"])
def test_file_name_that_leaves_the_folder(voc: SmallSet, name: str) -> None:
    voc.image(1).unlink()  # else the picture of the same name is taken and <filename> is not asked
    replace_text(voc, "<filename>1<", f"<filename>{name}<")
    voc.one_defect("Annotations/1.xml", "filename", "expected a file name", name, left_out=1)


def test_unknown_class(voc: SmallSet) -> None:
    replace_text(voc, "<name>dog", "<name>cow")
    with pytest.raises(DataError, match=r"Annotations/1\.xml: object 1: .*classes.* got 'cow'"):
        voc.open(classes=("cat", "dog"))
    assert len(voc.open(classes=("cat", "dog"), on_defect="skip")) == 2
    assert voc.open().classes == ("cat", "cow", "dog")


def test_listed_twice(voc: SmallSet) -> None:
    (voc.root / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n1\n")
    voc.one_defect("train.txt", "line 4", "each name once", "1 again", left_out=None)


def test_list_with_marks_bom_and_crlf(voc: SmallSet) -> None:
    (voc.root / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xef\xbb\xbf0  1\r\n1 -1\r\n\r\n2  0\r\n")
    assert list(voc.open().files) == ["0.jpg", "1.jpg", "2.jpg"]


def test_two_pictures_of_one_name(voc: SmallSet) -> None:
    picture().save(voc.image(1).with_suffix(".png"))
    voc.one_defect("Annotations/1.xml", "filename", "1.jpg and 1.png", left_out=1)
    replace_text(voc, "<filename>1<", "<filename>1.png<")
    assert voc.open().files[1] == "1.png"


def test_size_zero_means_not_known(voc: SmallSet) -> None:
    replace_text(voc, "<width>64</width><height>48", "<width>0</width><height>0")
    assert voc.open().sizes_hw.tolist() == [[48, 64]] * 3


def test_round_trip(voc: SmallSet, tmp_path: Path) -> None:
    voc.source(2).write_text(voc.source(2).read_text().replace("<difficult>0", "<difficult>1", 1))
    before = voc.open()
    save_voc(before, tmp_path / "copy", "val")
    after = load_voc(tmp_path / "copy", "val")
    assert after.fingerprint() == before.fingerprint()
    np.testing.assert_array_equal(after.boxes, before.boxes)
    assert after.crowd.tolist() == [False, False, False, True, False, False]
    assert after.classes == ("cat", "dog")


def test_same_name_in_two_folders_cannot_be_saved(coco: SmallSet, tmp_path: Path) -> None:
    text = coco.source(0).read_text().replace('"1.jpg"', '"more/0.jpg"')
    coco.source(0).write_text(text)
    (coco.root / "train2017" / "more").mkdir()
    coco.image(1).rename(coco.root / "train2017" / "more" / "0.jpg")
    with pytest.raises(ValueError, match=r"a name of its own.*more/0\.jpg and 0\.jpg"):
        save_voc(coco.open(), tmp_path / "copy")
