"""Label maps that cannot be used: one line each that says what to do, and skip leaves the image out."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bifocals.data import Data, DataError, check_dataset, open_maps
from tests.data.small_maps import COLORS, NUM, SmallMaps, save_palette, truth
from tests.data.small_set import HEIGHT, WIDTH, picture
from tests.data.test_hostile_images import png_claiming
from tests.data.test_label_maps import gray_png

WRONG = {"cityscapes": 19, "camvid": 12, "voc-maps": 21, "cocostuff": 182, "label-folder": 4}
EXPECTED = {
    "cityscapes": "numbers 0 to 18, or 255 for",
    "camvid": "numbers 0 to 10, or 11, 255 for",
    "voc-maps": "numbers 0 to 20, or 255 for",
    "cocostuff": "numbers 0 to 181, or 255 for",
    "label-folder": "numbers 0 to 3, or 255 for",
}
PALETTE = np.array([*COLORS, *[[0, 0, 0]] * 251, [224, 224, 192]], dtype=np.uint8)


def rgb(folder: SmallMaps, i: int) -> None:
    """Writes label map i in the colors of its classes."""
    Image.fromarray(PALETTE[truth(i)]).save(folder.label(i))


def test_sound_sets(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    assert len(maps) == NUM
    assert maps.sizes_hw.tolist() == [[HEIGHT, WIDTH]] * NUM
    for i in range(NUM):
        assert np.array_equal(maps.labels(i), truth(i))


def test_number_outside_of_the_class_list(small_maps: SmallMaps) -> None:
    labels = small_maps.stored(1)
    labels[20, :7] = WRONG[small_maps.format]
    small_maps.save(1, labels)
    place = f"{small_maps.name(small_maps.label(1))}: label map of {small_maps.name(small_maps.image(1))}: "
    expected = place + f"expected the {EXPECTED[small_maps.format]} what does not count"
    small_maps.one_defect(expected, f", got {WRONG[small_maps.format]} (7 pixels)", left_out=1)


def test_ids_one_too_high_are_explained(tmp_path) -> None:
    stuff = SmallMaps("cocostuff", tmp_path / "maps").write()
    labels = stuff.stored(0)
    labels[0, 0] = 182
    stuff.save(0, labels)
    stuff.one_defect("182 (1 pixel)", "subtract one, 0 becoming 255", left_out=0)


def test_many_wrong_numbers_are_summed_up(folder: SmallMaps) -> None:
    blurred = Image.fromarray(np.array([0, 40, 200, 255], dtype=np.uint8)[truth(1) % 4])
    blurred.resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BICUBIC).resize((WIDTH, HEIGHT)).save(folder.label(1))
    defect = folder.one_defect("numbers 0 to 3", "many others come from resizing or lossy saving", left_out=1)
    assert defect.value.endswith("more")


def test_another_size(small_maps: SmallMaps) -> None:
    small_maps.save(1, small_maps.stored(1)[:-1].copy())
    expected = f"size of its picture, {WIDTH}x{HEIGHT}, got {WIDTH}x{HEIGHT - 1}"
    small_maps.one_defect(small_maps.name(small_maps.label(1)), expected, left_out=1)


def test_turned_like_the_picture_but_not_its_size(small_maps: SmallMaps) -> None:
    small_maps.save(2, np.ascontiguousarray(small_maps.stored(2).T))
    small_maps.one_defect(f"{WIDTH}x{HEIGHT}, got {HEIGHT}x{WIDTH}", left_out=2)


def test_exif_orientation_follows_the_labels(folder: SmallMaps) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # upright is a quarter turn of what is stored
    for i in (0, 1):
        picture(seed=i).save(folder.image(i), exif=exif)
    turned = np.ascontiguousarray(np.rot90(folder.stored(1), -1))
    folder.save(1, turned)
    maps = folder.open()
    for i, size_hw in enumerate([(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT, WIDTH)]):
        image, target = maps.source(i)
        assert target.size_hw == size_hw and image.shape[1:] == size_hw


def test_half_turns_follow_the_rest_of_the_set(folder: SmallMaps) -> None:
    quarter, half = Image.Exif(), Image.Exif()
    quarter[0x0112], half[0x0112] = 6, 3
    picture(seed=0).save(folder.image(0), exif=half)
    stored = folder.open().source(0)[0]
    picture(seed=1).save(folder.image(1), exif=quarter)
    folder.save(1, np.ascontiguousarray(np.rot90(folder.stored(1), -1)))
    upright = folder.open().source(0)[0]
    assert any("turned upright, as 1 against 0 others say" in line for line in folder.lines)
    assert np.array_equal(upright.numpy(), stored.numpy()[:, ::-1, ::-1])


def test_picture_without_label_map(small_maps: SmallMaps) -> None:
    small_maps.label(1).unlink()
    small_maps.one_defect(
        f"{small_maps.name(small_maps.image(1))}: picture: expected its label map "
        f"{small_maps.name(small_maps.label(1))}, got no such file", left_out=1
    )  # fmt: skip


def test_label_map_without_picture(small_maps: SmallMaps) -> None:
    small_maps.image(1).unlink()
    if small_maps.format in ("voc-maps", "cocostuff"):
        small_maps.one_defect("train.txt: name 1: expected a picture of that name", left_out=1)
        return
    # Nobody knows of an image 1 any more, so that nothing is left out, but it is said.
    defect = small_maps.one_defect(f"{small_maps.name(small_maps.label(1))}: label map: expected a picture", left_out=1)
    assert defect.images == ()


def test_label_map_as_jpeg(folder: SmallMaps) -> None:
    Image.fromarray(truth(1)).save(folder.label(1).with_suffix(".jpg"))
    folder.label(1).unlink()
    folder.one_defect("got 1.jpg, but only PNG keeps label values", left_out=1)


def test_jpeg_named_png(folder: SmallMaps) -> None:
    Image.fromarray(truth(1)).save(folder.label(1), format="jpeg")
    folder.one_defect("expected a label map as PNG, got a JPEG", left_out=1)


def test_no_label_map_at_all(tmp_path) -> None:
    camvid = SmallMaps("camvid", tmp_path / "maps").write()
    for i in range(NUM):
        camvid.label(i).unlink()
    defect = camvid.one_defect("trainannot: ", "none for 3, the first would be trainannot/0.png", left_out=None)
    assert defect.fatal


def test_two_pictures_of_one_name(folder: SmallMaps) -> None:
    picture().save(folder.image(1).with_suffix(".png"))
    with pytest.raises(DataError, match=r"expected one picture named 1, got 1\.jpg and 1\.png"):
        folder.open()


def test_empty_map(small_maps: SmallMaps) -> None:
    small_maps.save(1, np.full((HEIGHT, WIDTH), small_maps.void, dtype=np.uint8))
    small_maps.one_defect("expected a class in some pixel, got only pixels that do not count", left_out=1)


def test_all_maps_empty(small_maps: SmallMaps) -> None:
    for i in range(NUM):
        small_maps.save(i, np.full((HEIGHT, WIDTH), small_maps.void, dtype=np.uint8))
    defect = small_maps.one_defect("expected a class in some pixel, got none in all 3 label maps", left_out=None)
    assert defect.fatal


@pytest.mark.parametrize(("share", "expected"), [(0.0, "0 bytes"), (0.3, "complete"), (0.9, "complete, readable")])
def test_cut_off(small_maps: SmallMaps, share: float, expected: str) -> None:
    whole = small_maps.label(1).read_bytes()
    small_maps.label(1).write_bytes(whole[: int(len(whole) * share)])
    small_maps.one_defect(small_maps.name(small_maps.label(1)), expected, left_out=1)


def test_flipped_bits(folder: SmallMaps) -> None:
    whole = bytearray(folder.label(1).read_bytes())
    for place in range(45, len(whole) - 20, max(1, len(whole) // 8)):
        broken = whole.copy()
        broken[place] ^= 0x10
        folder.label(1).write_bytes(broken)
        folder.one_defect("complete, readable label map", left_out=1)


def test_text_folder_and_pipe_in_place_of_a_label_map(folder: SmallMaps) -> None:
    folder.label(1).write_text("<!DOCTYPE html>")
    folder.one_defect("expected a label map as PNG, got a file starting with b'<!DOCTYPE html>'", left_out=1)
    folder.label(1).unlink()
    os.mkfifo(folder.label(1))
    folder.one_defect("a special file", left_out=1)
    folder.label(1).unlink()
    folder.label(1).mkdir()
    folder.one_defect("expected its label map labels/train/1.png, got no such file", left_out=1)


def test_bomb(folder: SmallMaps) -> None:
    bomb = bytearray(png_claiming(100_000, 100_000))
    bomb[25] = 0  # gray; the checksum of the header is wrong then, which alone would do
    folder.label(1).write_bytes(bomb)
    assert "100000x100000" in str(folder.defects()[0]) or "expected" in str(folder.defects()[0])


@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_sixteen_bits(folder: SmallMaps, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(truth(1).astype(np.uint16)).save(folder.label(1))
    else:
        data = bytearray(png_claiming(WIDTH, HEIGHT))
        data[24] = 16
        folder.label(1).write_bytes(data)
    folder.one_defect("8 bits a channel, got 16 bits", left_out=1)


def test_gray_of_four_bits_is_sound(folder: SmallMaps) -> None:
    labels = np.where(truth(1) == 255, 3, truth(1)).astype(np.uint8)
    gray_png(folder.label(1), labels, 4)
    assert np.array_equal(folder.open().labels(1), labels)
    labels[0, 0] = 4
    gray_png(folder.label(1), labels, 4)
    folder.one_defect("got 4 (1 pixel)", left_out=1)


def test_gray_and_alpha(folder: SmallMaps) -> None:
    Image.fromarray(truth(1)).convert("LA").save(folder.label(1))
    folder.one_defect("number of a class in each pixel, got gray and alpha pixels", left_out=1)


def test_link_out_of_the_set(folder: SmallMaps) -> None:
    outside = folder.root.parent / "outside.png"
    shutil.move(folder.label(1), outside)
    folder.label(1).symlink_to(outside)
    folder.one_defect("labels/train/1.png", "stays in the data set, got a link to", "outside.png", left_out=1)


def test_link_inside_of_the_set_and_linked_folders(folder: SmallMaps) -> None:
    folder.label(1).rename(folder.root / "one.png")
    folder.label(1).symlink_to(folder.root / "one.png")
    for name in ("images", "labels"):
        elsewhere = folder.root.parent / name
        shutil.move(folder.root / name / "train", elsewhere)
        (folder.root / name / "train").symlink_to(elsewhere)
    maps = folder.open()
    assert np.array_equal(maps.labels(1), truth(1))


def test_broken_picture(small_maps: SmallMaps) -> None:
    small_maps.image(1).write_bytes(small_maps.image(1).read_bytes()[:200])
    small_maps.one_defect(f"{small_maps.name(small_maps.image(1))}: picture: expected a complete", left_out=1)


# Palette against index


def test_rgb_with_equal_channels(folder: SmallMaps) -> None:
    Image.fromarray(truth(1)).convert("RGB").save(folder.label(1))
    expected = "in each pixel (save one channel alone, Pillow mode L), got RGB with three equal channels"
    folder.one_defect(expected, left_out=1)


def test_rgb_without_colors_in_the_class_list(folder: SmallMaps) -> None:
    rgb(folder, 1)
    folder.one_defect("(or give each class its color in classes.json), got RGB of 5 colors", left_out=1)


def test_one_rgb_among_numbers(folder: SmallMaps) -> None:
    folder.classes_json(ignore=[255, [224, 224, 192]])
    rgb(folder, 1)
    advice = '(or "labels": "colors" in classes.json)'
    folder.one_defect(f"as most of the set has {advice}, got RGB in the colors of classes.json", left_out=1)


def test_rgb_in_foreign_colors(folder: SmallMaps) -> None:
    folder.classes_json()
    Image.fromarray(PALETTE[truth(1)] // 2 + 3).save(folder.label(1))
    folder.one_defect("RGB in colors that classes.json does not have", left_out=1)


def test_one_of_numbers_among_rgb(folder: SmallMaps) -> None:
    folder.classes_json(ignore=[[224, 224, 192]])
    for i in (0, 2):
        rgb(folder, i)
    folder.one_defect("in the colors of the classes, as most of the set has them, got one channel (index)", left_out=1)


def test_color_that_no_class_has(folder: SmallMaps) -> None:
    folder.classes_json(ignore=[[224, 224, 192]])
    for i in range(NUM):
        rgb(folder, i)
    assert np.array_equal(folder.open().labels(1), truth(1))
    colors = PALETTE[truth(1)]
    colors[20, :3] = 1, 2, 3
    Image.fromarray(colors).save(folder.label(1))
    folder.one_defect("expected the colors of classes.json, got (1, 2, 3) (3 pixels)", left_out=1)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder.label(1))
    found = " ".join(str(defect) for defect in folder.defects())
    assert "(many others come from resizing or lossy saving), got more than 65536 colors" in found
    assert "expected the size of its picture" in found


def test_palette_whose_colors_contradict_its_numbers(folder: SmallMaps) -> None:
    """Somebody's tool sorted the colors anew: the numbers fit the class list, and mean other classes."""
    folder.classes_json()
    swapped = [COLORS[i] for i in (2, 1, 0, 3)]
    save_palette(np.array([2, 1, 0, 3], dtype=np.uint8)[truth(1) % 4], folder.label(1), swapped)
    folder.one_defect(
        "expected a palette with each class in its color", 'say "labels": "colors" in classes.json, else repair it',
        "got number 0 ('sky') in that of 'car'", left_out=1,
    )  # fmt: skip
    for i in (0, 2):
        save_palette(truth(i) % 4, folder.label(i), COLORS)
    folder.classes_json(labels="colors")
    assert np.array_equal(folder.open().labels(1), truth(1) % 4)  # read as the sentence says


def test_palette_whose_numbers_do_not_fit_while_its_colors_do(folder: SmallMaps) -> None:
    folder.classes_json()
    save_palette(truth(1) % 4 + 10, folder.label(1), [[9, 9, 9]] * 10 + COLORS)
    folder.one_defect("number 10 (no class) in that of 'sky'", '"labels": "colors"', left_out=1)


def test_palette_of_ones_own_choice_says_nothing(folder: SmallMaps) -> None:
    folder.classes_json()
    for i, colors in enumerate(([[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]], [COLORS[1], [5, 5, 5]], COLORS)):
        save_palette(folder.stored(i), folder.label(i), colors)
    maps = folder.open()
    assert all(np.array_equal(maps.labels(i), truth(i)) for i in range(NUM))


# The whole set


def test_whole_false_looks_at_headers_alone(folder: SmallMaps) -> None:
    labels = folder.stored(1)
    labels[0, 0] = 77
    folder.save(1, labels)
    data = Data(root=str(folder.root))
    maps = open_maps(data, "train", None, whole=False)
    assert maps.sizes_hw.tolist() == [[HEIGHT, WIDTH]] * NUM
    assert maps.labels(1)[0, 0] == 255
    folder.save(1, labels[:-1].copy())
    with pytest.raises(DataError, match="size of its picture"):
        open_maps(data, "train", None, whole=False)


def test_every_image_defective(folder: SmallMaps) -> None:
    for i in range(NUM):
        folder.image(i).write_bytes(b"")
    with pytest.raises(ValueError, match="none is left"):
        folder.open(on_defect="skip")


def test_picture_of_two_splits(folder: SmallMaps) -> None:
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (folder.root / kind / "val").mkdir()
        shutil.copy(folder.root / kind / "train" / f"1.{suffix}", folder.root / kind / "val" / f"7.{suffix}")
    expected = "images/val/7.jpg: split val: expected a picture that is in no other split, got "
    assert [str(defect) for defect in check_dataset(folder.root)] == [f"{expected}images/train/1.jpg of split train"]


def test_each_defect_is_one_line(folder: SmallMaps) -> None:
    folder.label(0).write_bytes(b"")
    labels = folder.stored(1)
    labels[0, 0] = 9
    folder.save(1, labels)
    folder.image(2).unlink()
    found = [str(defect) for defect in folder.defects()]
    assert len(found) == 3
    assert [sum(name in line for line in found) for name in ("0.png", "1.png", "2.png")] == [1, 1, 1]
