"""Pictures that cannot be used, in every format: one line each, and skip leaves the picture out."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bifocals.data import DataError, DetectionDataset, Input, eval_transform, read_image
from bifocals.data.images import ImageProblem, inspect_image
from tests.data.small_set import HEIGHT, WIDTH, SmallSet, picture


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_sound_set(small: SmallSet) -> None:
    annotations = small.open()
    assert len(annotations) == 3
    assert annotations.classes == ("cat", "dog")
    assert annotations.sizes_hw.tolist() == [[HEIGHT, WIDTH]] * 3
    boxes, labels, crowd = annotations.objects(2)
    np.testing.assert_allclose(boxes, [[8, 8, 40, 30], [1, 1, 63, 47], [30, 20, 50, 40]], atol=1e-5)
    assert labels.tolist() == [0, 1, 0]
    assert not crowd.any()


def test_missing(small: SmallSet) -> None:
    small.image(1).unlink()
    if small.format == "yolo":  # its pictures are listed by looking: only the label file tells of the loss
        small.one_defect("labels/train/1.txt", "none", left_out=1)
    else:
        small.one_defect("1.jpg", "no such file", left_out=1)


def test_zero_bytes(small: SmallSet) -> None:
    small.image(1).write_bytes(b"")
    small.one_defect("1.jpg", "got 0 bytes", left_out=1)


def test_folder_in_place_of_picture(coco: SmallSet) -> None:
    coco.image(1).unlink()
    coco.image(1).mkdir()
    coco.one_defect("1.jpg", "a folder", left_out=1)


def test_pipe_in_place_of_picture(coco: SmallSet) -> None:
    coco.image(1).unlink()
    os.mkfifo(coco.image(1))
    coco.one_defect("1.jpg", "a special file", left_out=1)


def test_html_named_jpg(small: SmallSet) -> None:
    small.image(1).write_text("<!DOCTYPE html>\n<html><body>404 Not Found</body></html>")
    small.one_defect("1.jpg", "HTML", "<!DOCTYPE html>", left_out=1)


def test_postscript_named_jpg(coco: SmallSet) -> None:
    coco.image(1).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n")
    coco.one_defect("1.jpg", "%!PS-Adobe", left_out=1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_truncated_jpeg(small: SmallSet, share: float) -> None:
    whole = small.image(1).read_bytes()
    small.image(1).write_bytes(whole[: int(len(whole) * share)])
    small.one_defect("1.jpg", "complete, readable picture", left_out=1)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp"])
def test_other_formats_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    picture().save(path)
    assert inspect_image(path).stored_hw == (HEIGHT, WIDTH)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ImageProblem, match="complete, readable picture"):
        inspect_image(path)


def test_jpeg_with_bytes_after_its_end_is_sound(coco: SmallSet) -> None:
    with open(coco.image(1), "ab") as file:
        file.write(b"a camera's trailer" * 50)
    assert len(coco.open()) == 3


def test_size_disagrees(small: SmallSet) -> None:
    picture(WIDTH + 2, HEIGHT).save(small.image(1))
    if small.format == "yolo":  # annotates no size: boxes are shares of whatever it is
        assert small.open().sizes_hw.tolist() == [[HEIGHT, WIDTH], [HEIGHT, WIDTH + 2], [HEIGHT, WIDTH]]
        return
    small.one_defect("1.jpg", f"{WIDTH}x{HEIGHT}", f"got {WIDTH + 2}x{HEIGHT}", left_out=1)


# 100 million pixels lie in the band where Pillow only warns, 900 million where it refuses.
@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bomb(small: SmallSet, side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    small.image(1).write_bytes(png_claiming(side, side))
    small.one_defect("1.jpg", f"at most {limit} pixels", left_out=1)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_bomb_where_another_library_raised_the_limit(coco: SmallSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000_000)
    coco.image(1).write_bytes(png_claiming(10_000, 10_000))
    coco.one_defect("1.jpg", "10000x10000", left_out=1)


def test_bomb_is_not_decoded_when_read(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(30_000, 30_000))
    with pytest.raises(DataError, match="bomb.png"):
        read_image(tmp_path / "bomb.png")


def modes() -> dict[str, Image.Image]:
    gray = np.tile(np.arange(WIDTH, dtype=np.uint16) * 4, (HEIGHT, 1))
    rgb = picture()
    palette = rgb.quantize(16)
    clear = palette.copy()
    clear.info["transparency"] = bytes([0] * 16)
    return {
        "gray.jpg": Image.fromarray(gray.astype(np.uint8)),
        "bilevel.png": Image.fromarray(gray.astype(np.uint8)).convert("1"),
        "rgba.png": rgb.convert("RGBA"),
        "gray_alpha.png": Image.fromarray(gray.astype(np.uint8)).convert("LA"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "sixteen.png": Image.fromarray(gray * 257),
        "sixteen.tiff": Image.fromarray(gray * 257),
        "palette.png": palette,
        "palette_clear.png": clear,
        "animated.gif": palette,
        "plain.webp": rgb,
        "plain.bmp": rgb,
        "progressive.jpg": rgb,
    }


@pytest.mark.parametrize("name", sorted(modes()))
def test_modes_become_rgb_bytes(coco: SmallSet, name: str) -> None:
    original = modes()[name]
    options = {"animated.gif": {"save_all": True, "append_images": [original.rotate(180)]},
               "progressive.jpg": {"progressive": True}}.get(name, {})  # fmt: skip
    path = coco.image(1).with_name(name)
    original.save(path, quality=95, **options)
    content = coco.source(0).read_text().replace('"1.jpg"', f'"{name}"')
    coco.source(0).write_text(content)

    annotations = coco.open()
    image, _ = DetectionDataset(annotations, eval_transform(Input(HEIGHT, WIDTH)))[0, 1]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.dtype.is_floating_point is False
    if original.mode.startswith("I;16"):
        expected = np.repeat(np.asarray(original)[:, :, None] >> 8, 3, axis=2)
        assert expected.max() > 200  # clipped instead of scaled, nearly all would be white
    else:
        expected = np.asarray(original.convert("RGBA").convert("RGB"))
    difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected)
    lossy = name.endswith((".jpg", ".webp"))
    assert difference.mean() < (6 if lossy else 0.01)


def test_float_picture_is_refused(coco: SmallSet) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.float32)).save(coco.image(1), format="TIFF")
    coco.one_defect("1.jpg", "32 bits", left_out=1)


def turned(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera stores so that a viewer who follows `orientation` sees `upright`."""
    T = Image.Transpose
    undo = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
            7: T.TRANSVERSE, 8: T.ROTATE_270}  # fmt: skip
    return upright if orientation == 1 else upright.transpose(undo[orientation])


def save_turned(path: Path, orientation: int, upright: Image.Image) -> Image.Image:
    stored = turned(upright, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, quality=95, exif=exif)
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_followed_where_the_annotation_did(small: SmallSet, orientation: int) -> None:
    upright = picture(seed=9)
    save_turned(small.image(1), orientation, upright)
    annotations = small.open()
    image, target = DetectionDataset(annotations, eval_transform(Input(HEIGHT, WIDTH)))[0, 1]
    # YOLO has no size: turned. COCO and VOC give the upright size, which only quarter turns can confirm.
    follows = small.format == "yolo" or orientation >= 5 or orientation == 1
    expected = upright if follows else turned(upright, orientation)
    difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < 3
    assert target.original_hw == (HEIGHT, WIDTH)
    np.testing.assert_allclose(target.boxes.numpy(), [[2, 2, 12, 14]], atol=1e-4)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_exif_is_not_followed_where_the_annotation_gives_the_stored_size(coco: SmallSet, orientation: int) -> None:
    stored = save_turned(coco.image(1), orientation, picture(HEIGHT, WIDTH, seed=9))
    assert stored.size == (WIDTH, HEIGHT)
    image = read_image(coco.image(1), (HEIGHT, WIDTH))
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(stored).astype(int)).mean() < 3
    assert len(coco.open()) == 3


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_half_turns_follow_the_rest_of_the_set(coco: SmallSet, orientation: int) -> None:
    upright = picture(seed=9)
    save_turned(coco.image(0), 6, picture(seed=3))  # annotated upright: this tool follows EXIF
    save_turned(coco.image(1), orientation, upright)
    annotations = coco.open()
    assert any("turned upright" in line for line in coco.lines)
    image = read_image(annotations.image_path(1), (HEIGHT, WIDTH), bool(annotations.upright[1]))
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(upright).astype(int)).mean() < 3


def test_exif_turned_to_neither_size_is_a_defect(coco: SmallSet) -> None:
    save_turned(coco.image(1), 6, picture(WIDTH + 10, HEIGHT))
    coco.one_defect("1.jpg", "EXIF orientation 6", f"{HEIGHT}x{WIDTH + 10}", left_out=1)


def test_broken_exif_is_no_defect(coco: SmallSet) -> None:
    picture().save(coco.image(1), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert len(coco.open()) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(coco.image(1)).shape == (3, HEIGHT, WIDTH)


def test_link_that_leaves_the_set(small: SmallSet, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    small.image(1).rename(outside)
    small.image(1).symlink_to(outside)
    small.one_defect("1.jpg", "outside.jpg", left_out=1)


def test_link_inside_the_set_is_sound(small: SmallSet) -> None:
    store = small.root / "store"
    store.mkdir()
    small.image(1).rename(store / "kept.jpg")
    small.image(1).symlink_to(store / "kept.jpg")
    assert len(small.open()) == 3


def test_picture_folder_that_is_a_link_is_sound(coco: SmallSet, tmp_path: Path) -> None:
    (coco.root / "train2017").rename(tmp_path / "disk")
    (coco.root / "train2017").symlink_to(tmp_path / "disk")
    assert len(coco.open()) == 3


def test_loss_after_the_check_names_the_file(coco: SmallSet) -> None:
    annotations = coco.open()
    coco.image(1).write_bytes(coco.image(1).read_bytes()[:400])
    with pytest.raises(DataError, match=r"1\.jpg: expected a complete, readable picture"):
        DetectionDataset(annotations, eval_transform(Input(HEIGHT, WIDTH)))[0, 1]
