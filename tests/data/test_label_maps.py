"""Label maps as packed arrays: what a pixel's stored number means, and nothing that a picture library adds to it."""

from __future__ import annotations

import pickle
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bifocals.data import DataError, LabelMaps, class_frequencies
from bifocals.data.label_png import read_labels
from tests.data.small_maps import COLORS, SmallMaps, save_palette, truth
from tests.data.small_set import HEIGHT, WIDTH

IDENTITY = np.arange(256, dtype=np.uint8)
PLAIN = np.zeros((0, 3), dtype=np.uint8)


def gray_png(path: Path, values: np.ndarray, bits: int) -> None:
    """A gray PNG with `bits` a pixel, written by hand: Pillow writes 8 or 1."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, width * bits)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(planes.astype(bool), axis=1))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))  # fmt: skip


def one_map(tmp_path: Path, mapping: np.ndarray = IDENTITY, classes: int = 254, **more: object) -> LabelMaps:
    names = tuple(f"c{i}" for i in range(classes))
    mapping = np.where(mapping < classes, mapping, 255).astype(np.uint8)
    return LabelMaps(tmp_path, ["0.png"], ["labels.png"], np.arange(1), np.zeros((1, 2), dtype=np.int32), names,
                     tuple(range(classes)), mapping, **more)  # type: ignore[arg-type]  # fmt: skip


def test_source_gives_the_picture_and_a_target_without_boxes(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    assert len(maps) == 3
    image, target = maps.source(1)
    assert image.shape == (3, HEIGHT, WIDTH) and image.dtype == torch.uint8
    assert target.semantic is not None
    assert torch.equal(target.semantic, torch.from_numpy(truth(1)))
    assert target.size_hw == target.original_hw == (HEIGHT, WIDTH)
    assert (len(target.boxes), len(target.labels), len(target.crowd), target.masks) == (0, 0, 0, None)
    assert target.image_id == 1


def test_palette_png_gives_numbers_not_colors(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    draws = np.random.default_rng(0).integers(0, 256, (256, 3)).tolist()
    save_palette(values, tmp_path / "a.png", draws)
    assert np.array_equal(read_labels(tmp_path / "a.png", IDENTITY, PLAIN), values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 13), dtype=np.uint8)
    gray_png(tmp_path / "a.png", values, bits)
    assert np.array_equal(read_labels(tmp_path / "a.png", IDENTITY, PLAIN), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 13), dtype=np.uint8)
    image = Image.fromarray(values).convert("L")
    image.putpalette([200, 10, 10, 5, 5, 5] * 2 ** (bits - 1))
    image.save(tmp_path / "a.png", bits=bits)
    assert (tmp_path / "a.png").read_bytes()[24] == bits
    assert np.array_equal(read_labels(tmp_path / "a.png", IDENTITY, PLAIN), values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colors_are_their_place_in_the_list(tmp_path: Path, mode: str) -> None:
    labels = truth(0)
    labels[labels == 255] = 4  # a color that nobody lists
    table = np.array([*COLORS, [9, 8, 7]], dtype=np.uint8)
    image = Image.fromarray(table[labels])
    if mode == "P":  # in an order of its own
        image = Image.fromarray((4 - labels).astype(np.uint8))
        image.putpalette(table[::-1].ravel().tolist())
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    mapping = np.full(256, 255, dtype=np.uint8)
    mapping[:4] = [2, 0, 3, 1]
    found = read_labels(tmp_path / "a.png", mapping, np.array(COLORS, dtype=np.uint8))
    assert np.array_equal(found, np.array([2, 0, 3, 1, 255], dtype=np.uint8)[labels])


def test_mapping_joins_and_drops_numbers(tmp_path: Path) -> None:
    mapping = np.full(256, 255, dtype=np.uint8)
    mapping[[7, 8, 33]] = [0, 0, 1]
    Image.fromarray(np.array([[7, 8, 33], [0, 34, 255]], dtype=np.uint8)).save(tmp_path / "labels.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "0.png")
    maps = one_map(tmp_path, mapping, 2)
    assert maps.labels(0).tolist() == [[0, 0, 1], [255, 255, 255]]
    _, target = maps.source(0)
    assert target.semantic is not None and target.semantic.tolist() == [[0, 0, 1], [255, 255, 255]]


def test_frequencies(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0, 2], [0, 255, 255]], dtype=np.uint8)).save(tmp_path / "labels.png")
    found = class_frequencies(one_map(tmp_path, classes=4))
    assert found.pixels.tolist() == [3, 0, 1, 0]
    assert found.images.tolist() == [1, 0, 1, 0]
    assert found.ignored == 2
    assert found.shares.tolist() == [0.75, 0, 0.25, 0]


def test_sizes_that_change_after_opening_are_named(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    small_maps.save(1, small_maps.stored(1)[:, :-1].copy())
    with pytest.raises(DataError, match=rf"{small_maps.label(1).name}: expected the size of the set, 64x48, got 63x48"):
        maps.source(1)
    unsized = replace(maps, sizes_hw=np.zeros_like(maps.sizes_hw))
    with pytest.raises(DataError, match=rf"{small_maps.image(1).name}: expected the annotated size 63x48, got 64x48"):
        unsized.source(1)


def test_labels_that_vanish_after_opening_are_named(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    small_maps.label(2).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{small_maps.label(2).name}: expected an image file, got 0 bytes"):
        maps.source(2)


def test_subset_pickle_and_fingerprint(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    part = maps.subset([2, 0])
    assert list(part.files) == [maps.files[2], maps.files[0]]
    assert list(part.label_files) == [maps.label_files[2], maps.label_files[0]]
    assert part.image_ids.tolist() == [2, 0]
    assert torch.equal(part.source(0)[1].semantic, maps.source(2)[1].semantic)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(maps))
    assert copy.fingerprint() == maps.fingerprint() == small_maps.open(on_defect="skip").fingerprint()
    assert part.fingerprint() != maps.fingerprint()
    before = maps.fingerprint()
    changed = small_maps.stored(1)
    changed[40, 40] = (changed[40, 40] + 1) % 4
    small_maps.save(1, changed)
    assert small_maps.open().fingerprint() != before


def test_the_record_is_judged(tmp_path: Path) -> None:
    maps = one_map(tmp_path, classes=2, palette=((1, 2, 3), (4, 5, 6)))
    for wrong, expected in (
        ({"label_files": ["a", "b"]}, "label_files of 1"),
        ({"category_ids": (1,)}, "category_ids of 2"),
        ({"palette": ((1, 2, 3),)}, "palette of 2"),
        ({"mapping": np.zeros(255, dtype=np.uint8)}, "mapping of"),
        ({"mapping": np.full(256, 2, dtype=np.uint8)}, "classes below 2 or 255, got 2"),
        ({"label_kind": "rgb"}, "colors of True"),
        ({"classes": tuple(map(str, range(255))), "category_ids": tuple(range(255)), "palette": None}, "at most 254"),
    ):
        with pytest.raises(ValueError, match=f"LabelMaps expected .*{expected}"):
            replace(maps, **wrong)


def test_summary(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    kind = "palette" if small_maps.format == "voc-maps" else "index"
    assert maps.summary() == f"3 images of 64x48, {len(maps.classes)} classes, labels in {kind} PNGs"
    sizes = maps.sizes_hw.copy()
    sizes[0] = 1, 2
    assert "of 2 sizes" in replace(maps, sizes_hw=sizes).summary()


def test_nothing_grows_with_use(small_maps: SmallMaps) -> None:
    maps = small_maps.open()
    before = len(pickle.dumps(maps))
    for _ in range(3):
        for i in range(3):
            maps.source(i)
    assert len(pickle.dumps(maps)) == before
    # A hundred bytes an image, not a Python object for each name.
    many = maps.subset(np.zeros(10_000, dtype=np.int64))
    assert len(pickle.dumps(many)) < 10_000 * (100 + len(maps.files[0]) + len(maps.label_files[0]))
