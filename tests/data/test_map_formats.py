"""Layouts of segmentation sets are found from the folder; classes, splits and colors are what their makers meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifocals.cli.main import main
from bifocals.data import (
    Data,
    DataError,
    check_dataset,
    class_frequencies,
    has_map_split,
    load_camvid,
    load_cityscapes,
    load_coco_stuff,
    load_label_folder,
    load_voc_maps,
    open_maps,
    open_split,
    save_label_folder,
)
from bifocals.data.coco_stuff import COCO_STUFF
from bifocals.data.voc_maps import voc_color
from tests.data.small_maps import COLORS, NUM, SmallMaps, truth
from tests.data.small_set import SmallSet

LOADERS = {
    "cityscapes": load_cityscapes, "camvid": load_camvid, "voc-maps": load_voc_maps, "cocostuff": load_coco_stuff,
    "label-folder": load_label_folder,
}  # fmt: skip


def say(lines: list[str]) -> str:
    return "\n".join(lines)


def test_found_and_said(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    assert f" is {small_maps.format}: " in small_maps.lines[0]
    assert small_maps.lines[-1].startswith("data: train = train: 3 images of 64x48")
    assert any(line.startswith("data: labels: 0 ") for line in small_maps.lines)
    assert [maps.image_path(i) for i in range(NUM)] == [small_maps.image(i) for i in range(NUM)]
    assert [maps.label_path(i) for i in range(NUM)] == [small_maps.label(i) for i in range(NUM)]
    assert check_dataset(small_maps.root) == []
    data = Data(str(small_maps.root))
    assert has_map_split(data, "train") and not has_map_split(data, "val")


def test_loaders_read_the_same(small_maps: SmallMaps) -> None:
    loaded = LOADERS[small_maps.format](small_maps.root, "train")
    assert loaded.fingerprint() == small_maps.open().fingerprint()


def test_classes_that_never_occur_are_named(tmp_path: Path) -> None:
    small = SmallMaps("cityscapes", tmp_path / "maps").write()
    small.open()
    assert any(line.startswith("data: 15 of 19 classes are in no label map: fence, pole") for line in small.lines)


@pytest.mark.parametrize("first", ["camvid", "label-folder", "voc-maps"])
def test_wrong_task_is_said(tmp_path: Path, first: str) -> None:
    small = SmallMaps(first, tmp_path / "maps").write()
    with pytest.raises(ValueError, match=rf"expected objects to detect, got label maps for segmentation \({first}: "):
        open_split(Data(str(small.root)), "train", None)
    coco = SmallSet("coco", tmp_path / "coco").write()
    with pytest.raises(ValueError, match=r"expected label maps for segmentation, got objects to detect \(coco: "):
        open_maps(Data(str(coco.root)), "train", None)


def test_nothing_found_names_all_that_would_do(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(ValueError, match=r"expected leftImg8bit/ and gtFine/ \(cityscapes\); or .*, got readme\.md"):
        open_maps(Data(str(tmp_path)), "train", None)
    with pytest.raises(ValueError, match=r"annotations/\*\.json.*leftImg8bit/.*, got readme\.md"):
        check_dataset(tmp_path)


def test_check_command(folder: SmallMaps, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "dataset", str(folder.root)]) == 0
    assert "sound" in capsys.readouterr().out
    folder.save(1, np.full((48, 64), 9, dtype=np.uint8))
    assert main(["check", "dataset", str(folder.root), "--format", "label-folder"]) == 1
    assert "labels/train/1.png: label map of images/train/1.jpg: expected the numbers" in capsys.readouterr().out


# Cityscapes


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    small = SmallMaps("cityscapes", tmp_path / "maps").write()
    expected = [small.open().labels(i) for i in range(NUM)]
    names = small.open().classes
    ids = np.zeros(256, dtype=np.uint8)
    ids[[0, 1, 2, 3, 255]] = [7, 8, 11, 12, 4]  # road, sidewalk, building, wall; 4 is static, which does not count
    for i in range(NUM):
        labels = ids[truth(i)]
        small.label(i).unlink()
        Image.fromarray(labels).save(str(small.label(i)).replace("labelTrainIds", "labelIds"))
        # What else the benchmark puts beside must not disturb.
        Image.fromarray(labels.astype(np.uint16)).save(str(small.label(i)).replace("labelTrainIds", "instanceIds"))
    maps = small.open()
    assert all(np.array_equal(maps.labels(i), expected[i]) for i in range(NUM))
    assert maps.classes == names and len(names) == 19
    assert maps.category_ids[:4] == (7, 8, 11, 12) and maps.category_ids[-1] == 33
    assert maps.palette is not None and maps.palette[13] == (0, 0, 142) and names[13] == "car"


def test_cityscapes_test_labels_are_withheld(tmp_path: Path) -> None:
    small = SmallMaps("cityscapes", tmp_path / "maps").write()
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(small.root / kind / "train", small.root / kind / "test")
    for path in (small.root / "gtFine" / "test").rglob("*.png"):
        Image.fromarray(np.full((48, 64), 255, dtype=np.uint8)).save(path)
    lines: list[str] = []
    assert check_dataset(small.root, lines.append) == []
    assert "keeps the labels of test to itself" in say(lines)
    with pytest.raises(DataError, match="none in all 3 label maps"):
        open_maps(Data(str(small.root)), "test", None)


def test_cityscapes_with_colors_alone(tmp_path: Path) -> None:
    small = SmallMaps("cityscapes", tmp_path / "maps").write()
    for i in range(NUM):
        small.label(i).rename(str(small.label(i)).replace("labelTrainIds", "color"))
    with pytest.raises(DataError, match=r"\*_gtFine_labelTrainIds\.png or .*_labelIds\.png, got 3 other pictures"):
        small.open()


# CamVid


def test_camvid_classes(tmp_path: Path) -> None:
    small = SmallMaps("camvid", tmp_path / "maps").write()
    maps = small.open()
    assert maps.classes == ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
                            "Pedestrian", "Bicyclist")  # fmt: skip
    assert maps.palette is not None and maps.palette[3] == (128, 64, 128)
    named = small.open(classes=("a", "b", "c", "d", *"efghijk"))
    # CamVid's own numbers stay, under other names: 11 is void still
    assert named.classes[:2] == ("a", "b") and np.array_equal(named.labels(0), truth(0))


def test_camvid_in_the_order_of_a_trained_model(tmp_path: Path) -> None:
    small = SmallMaps("camvid", tmp_path / "maps").write()
    wanted = ("Road", "Pole", "Building", "Sky", "Moon")
    maps = open_maps(Data(str(small.root)), "train", None, classes=wanted)
    turned = np.arange(256, dtype=np.uint8)
    turned[:4] = [3, 2, 1, 0]
    assert np.array_equal(maps.labels(1), turned[truth(1)])
    assert maps.classes == wanted and maps.category_ids == (3, 2, 1, 0, -1) and maps.palette is None
    assert open_maps(Data(str(small.root), classes=wanted[:4]), "train", None).classes == wanted[:4]
    with pytest.raises(DataError, match=r"one of the 3 classes of the training set, got 2 'Pole' \(\d+ pixels\)"):
        open_maps(Data(str(small.root)), "train", None, classes=("Road", "Sky", "Building"))


# VOC


def test_voc_palette() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0), 15: (192, 128, 128),
             20: (0, 64, 128), 255: (224, 224, 192)}  # fmt: skip
    assert {number: voc_color(number) for number in known} == known


def test_voc_lists(tmp_path: Path) -> None:
    small = SmallMaps("voc-maps", tmp_path / "maps").write()
    lists = small.root / "ImageSets" / "Segmentation"
    (lists / "val.txt").write_text("2\n")
    (lists / "trainval.txt").write_text("0\n1\n2\n")
    (lists / "train_aug.txt").write_text("1\n")
    shutil.copytree(small.root / "SegmentationClass", small.root / "SegmentationClassAug")
    data = Data(str(small.root))
    assert list(open_maps(data, "val", None).files) == ["JPEGImages/2.jpg"]
    assert len(small.open()) == 3
    assert list(small.open(train="train_aug").label_files) == ["SegmentationClassAug/1.png"]
    assert len(small.open(train="ImageSets/Segmentation/trainval.txt")) == 3
    shutil.rmtree(lists)
    (small.root / "JPEGImages" / "9.jpg").write_bytes(b"of another task, and not to be opened")
    assert list(small.open().files) == [f"JPEGImages/{i}.jpg" for i in range(3)]
    assert small.open().palette == tuple(voc_color(number) for number in range(21))


def test_voc_with_boxes_and_label_maps_asks(tmp_path: Path) -> None:
    boxes = SmallSet("voc", tmp_path / "set").write()
    maps = SmallMaps("voc-maps", tmp_path / "maps").write()
    shutil.move(maps.root / "SegmentationClass", boxes.root)
    shutil.move(maps.root / "ImageSets" / "Segmentation", boxes.root / "ImageSets")
    with pytest.raises(ValueError, match=r"can be read as voc or voc-maps \(.*--format"):
        check_dataset(boxes.root)
    assert check_dataset(boxes.root, format="voc") == check_dataset(boxes.root, format="voc-maps") == []
    # An engine knows its task.
    assert len(open_split(Data(str(boxes.root)), "train", None)) == len(open_maps(Data(str(boxes.root)), "train", None))


# COCO-Stuff


def test_coco_stuff_classes() -> None:
    assert len(COCO_STUFF) == len(set(COCO_STUFF)) == 182
    # ids of COCO count from 1; things end at 91
    for number, name in {1: "person", 12: "street sign", 27: "backpack", 90: "toothbrush", 92: "banner", 106: "clouds",
                         149: "road", 157: "sky-other", 169: "tree", 182: "wood"}.items():  # fmt: skip
        assert COCO_STUFF[number - 1] == name


def test_coco_stuff_as_folders(tmp_path: Path) -> None:
    small = SmallMaps("cocostuff", tmp_path / "maps").write()
    shutil.rmtree(small.root / "imageLists")
    for old, new in (("annotations", "stuffthingmaps/train2017"), ("images", "images/train2017")):
        (small.root / new).mkdir(parents=True)
        for path in list((small.root / old).glob("*.*")):
            shutil.move(path, small.root / new)
    maps = small.open()
    assert list(maps.label_files) == [f"stuffthingmaps/train2017/{i}.png" for i in range(3)]
    assert list(maps.files) == [f"images/train2017/{i}.jpg" for i in range(3)]
    assert any("0 person, 1 bicycle" in line and "182 in all" in line for line in small.lines)


def test_coco_stuff_as_matlab_files(tmp_path: Path) -> None:
    small = SmallMaps("cocostuff", tmp_path / "maps").write()
    for i in range(NUM):
        small.label(i).rename(small.label(i).with_suffix(".mat"))
    with pytest.raises(DataError, match="MATLAB files in annotations: convert them, subtract one, 0 becoming 255"):
        small.open()


# A folder of images and label PNGs


def test_folder_without_class_list(folder: SmallMaps) -> None:
    (folder.root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"expected a class list, classes\.txt .*name the classes with --data\.classes"):
        folder.open()
    maps = folder.open(classes=("sky", "road", "car", "pole"))
    assert np.array_equal(maps.labels(0), truth(0))
    # As a run of it is read again, its classes given and recorded.
    again = open_maps(Data(str(folder.root), classes=maps.classes), "train", None, classes=maps.classes)
    assert again.fingerprint() == maps.fingerprint()


def test_folder_layouts(folder: SmallMaps) -> None:
    root = folder.root
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", root / kind / "val")
    assert has_map_split(Data(str(root)), "val")
    inside_out = root.parent / "inside_out"
    for split in ("train", "val"):
        shutil.copytree(root / "images" / split, inside_out / split / "images")
        shutil.copytree(root / "labels" / split, inside_out / split / "masks")
    shutil.copy(root / "classes.txt", inside_out)
    assert list(open_maps(Data(str(inside_out)), "val", None).label_files) == [f"val/masks/{i}.png" for i in range(3)]
    flat = root.parent / "flat"
    shutil.copytree(root / "images" / "train", flat / "images" / "ulm")
    shutil.copytree(root / "labels" / "train", flat / "labels" / "ulm")
    shutil.copy(root / "classes.txt", flat)
    maps = open_maps(Data(str(flat)), "train", None)
    assert list(maps.files) == [f"images/ulm/{i}.jpg" for i in range(3)]
    assert load_label_folder(flat).fingerprint() == maps.fingerprint()
    assert len(load_label_folder(inside_out, "train")) == 3
    with pytest.raises(DataError, match="expected pictures and label PNGs of test, got train, val"):
        load_label_folder(inside_out, "test")


def test_label_names_with_an_ending_of_their_own(folder: SmallMaps) -> None:
    for i in range(NUM):
        folder.label(i).rename(folder.label(i).with_name(f"{i}_mask.png"))
    assert np.array_equal(folder.open().labels(2), truth(2))


def test_yolo_beside_label_maps_is_told_by_its_files(tmp_path: Path) -> None:
    yolo = SmallSet("yolo", tmp_path / "set").write()
    (yolo.root / "data.yaml").unlink()
    (yolo.root / "classes.txt").write_text("cat\ndog\n")
    assert check_dataset(yolo.root) == []
    with pytest.raises(ValueError, match=r"got objects to detect \(yolo: "):
        open_maps(Data(str(yolo.root)), "train", None)


def test_panoptic_pngs_of_coco_are_no_label_folder(tmp_path: Path) -> None:
    coco = SmallSet("coco", tmp_path / "set").write()
    (coco.root / "images").mkdir()
    (coco.root / "annotations" / "panoptic_train2017").mkdir()
    Image.new("RGB", (4, 4)).save(coco.root / "annotations" / "panoptic_train2017" / "0.png")
    assert check_dataset(coco.root) == []


def test_holdout(folder: SmallMaps) -> None:
    kept = [list(open_maps(Data(str(folder.root), holdout=0.34), split, None).files) for split in ("train", "val")]
    assert [len(files) for files in kept] == [2, 1]
    assert sorted(kept[0] + kept[1]) == [f"images/train/{i}.jpg" for i in range(3)]
    place = int(Path(kept[1][0]).stem)
    folder.label(place).unlink()  # a defect goes with its image
    assert len(open_maps(Data(str(folder.root), holdout=0.34), "train", None)) == 2
    with pytest.raises(DataError, match="no such file"):
        open_maps(Data(str(folder.root), holdout=0.34), "val", None)
    with pytest.raises(ValueError, match=r"expected a val split, got train; .*--data\.holdout"):
        open_maps(Data(str(folder.root)), "val", None)


def test_saved_and_read_again(small_maps: SmallMaps, tmp_path: Path) -> None:
    maps = small_maps.open()
    saved = load_label_folder(save_label_folder(maps, tmp_path / "copy"), "train")
    assert saved.classes == maps.classes and saved.palette == maps.palette
    for i in range(NUM):
        assert np.array_equal(saved.labels(i), maps.labels(i))
        assert saved.image_path(i).read_bytes() == maps.image_path(i).read_bytes()
    assert check_dataset(tmp_path / "copy") == []


def test_values_of_a_list_are_read_so(folder: SmallMaps) -> None:
    folder.classes_json()
    (folder.root / "classes.json").write_text(json.dumps({
        "classes": [{"name": "up", "values": [0, 3]}, {"name": "down", "value": 1}], "ignore": [2, 255]}))  # fmt: skip
    expected = np.full(256, 255, dtype=np.uint8)
    expected[[0, 3, 1]] = [0, 0, 1]
    maps = folder.open()
    assert np.array_equal(maps.labels(1), expected[truth(1)])
    assert maps.category_ids == (0, 1)


def test_palette_of_the_files_where_the_list_has_no_colors(folder: SmallMaps) -> None:
    from tests.data.small_maps import save_palette

    for i in range(NUM):
        save_palette(folder.stored(i), folder.label(i), COLORS)
    assert folder.open().palette == tuple(tuple(color) for color in COLORS)


# Real streets


@pytest.mark.parametrize(("split", "number"), [("train", 367), ("val", 101), ("test", 233)])
def test_camvid_itself(shared: Path, split: str, number: int) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"no CamVid at {root}")
    lines: list[str] = []
    maps = open_maps(Data(str(root)), split, lines.append)  # type: ignore[arg-type]
    assert len(maps) == number and len(maps.classes) == 11
    assert np.unique(maps.sizes_hw, axis=0).tolist() == [[360, 480]]
    assert maps.label_kind == "index"
    assert maps.fingerprint() == maps.subset(range(number)).fingerprint()
    if split == "val":
        found = class_frequencies(maps)
        assert found.pixels.sum() + found.ignored == number * 360 * 480
        # counted with Pillow and numpy alone
        assert found.pixels.tolist() == [1601620, 4531180, 98499, 5053176, 1521751, 2851125, 155724, 537197, 304716,
                                         113531, 387010]  # fmt: skip
        assert found.ignored == 297271
