"""Small segmentation sets on disk, written without the code under test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bifocals.data import Data, DataError, Defect, LabelMaps, check_dataset, open_maps
from tests.data.small_set import HEIGHT, WIDTH, picture

FORMATS = ("cityscapes", "camvid", "voc-maps", "cocostuff", "label-folder")
NUM = 3
COLORS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]  # of VOC's first four numbers


def truth(i: int) -> NDArray[np.uint8]:
    """The classes of image i: blocks of the classes 0 to 3, and a corner that does not count."""
    labels = np.random.default_rng(100 + i).integers(0, 4, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    labels[:8, :8] = 255
    labels[8:16, :32:8] = np.arange(4, dtype=np.uint8)  # every class occurs
    assert labels.shape == (HEIGHT, WIDTH)
    return labels


def save_palette(labels: NDArray[np.uint8], path: Path, colors: list[list[int]]) -> None:
    image = Image.fromarray(labels).convert("L")
    flat = [part for color in colors for part in color]
    image.putpalette(flat + [0] * (768 - len(flat)))  # else Pillow saves as few bits as there are colors
    image.save(path)


@dataclass
class SmallMaps:
    """Three sound pictures with label maps in one of the formats, to be spoilt by a test."""

    format: str
    root: Path
    lines: list[str] = field(default_factory=list)

    def image(self, i: int) -> Path:
        return self.root / {
            "cityscapes": f"leftImg8bit/train/ulm/ulm_{i}_leftImg8bit.png",
            "camvid": f"train/{i}.jpg",
            "voc-maps": f"JPEGImages/{i}.jpg",
            "cocostuff": f"images/{i}.jpg",
            "label-folder": f"images/train/{i}.jpg",
        }[self.format]

    def label(self, i: int) -> Path:
        return self.root / {
            "cityscapes": f"gtFine/train/ulm/ulm_{i}_gtFine_labelTrainIds.png",
            "camvid": f"trainannot/{i}.png",
            "voc-maps": f"SegmentationClass/{i}.png",
            "cocostuff": f"annotations/{i}.png",
            "label-folder": f"labels/train/{i}.png",
        }[self.format]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @property
    def void(self) -> int:
        return 11 if self.format == "camvid" else 255

    def save(self, i: int, labels: NDArray[np.uint8]) -> None:
        """Writes label map i with these stored numbers, as the format has them."""
        if self.format == "voc-maps":
            save_palette(labels, self.label(i), COLORS)
        else:
            Image.fromarray(labels).save(self.label(i))

    def stored(self, i: int) -> NDArray[np.uint8]:
        labels = truth(i)
        labels[labels == 255] = self.void
        return labels

    def write(self) -> SmallMaps:
        for i in range(NUM):
            for path in (self.image(i), self.label(i)):
                path.parent.mkdir(parents=True, exist_ok=True)
            picture(seed=i).save(self.image(i))
            self.save(i, self.stored(i))
        if self.format in ("voc-maps", "cocostuff"):
            folder = "ImageSets/Segmentation" if self.format == "voc-maps" else "imageLists"
            (self.root / folder).mkdir(parents=True)
            (self.root / folder / "train.txt").write_text("0\n1\n2\n")
        if self.format == "label-folder":
            (self.root / "classes.txt").write_text("sky\nroad\ncar\npole\n")
        return self

    def classes_json(self, **more: Any) -> None:
        """Gives a label folder a class list with colors in place of its plain one."""
        (self.root / "classes.txt").unlink(missing_ok=True)
        names = ("sky", "road", "car", "pole")
        entries = [{"name": name, "color": color} for name, color in zip(names, COLORS, strict=True)]
        (self.root / "classes.json").write_text(json.dumps({"classes": entries, **more}))

    def open(self, **options: Any) -> LabelMaps:
        self.lines.clear()
        return open_maps(Data(root=str(self.root), **options), "train", log=self.lines.append)

    def defects(self) -> list[Defect]:
        with pytest.raises(DataError) as caught:
            self.open()
        lines = [str(defect) for defect in caught.value.defects]
        assert [str(d) for d in check_dataset(self.root)] == lines
        for line in lines:
            assert "\n" not in line and line.isprintable()
            assert line in str(caught.value)
        return list(caught.value.defects)

    def one_defect(self, *expected: str, left_out: int | None) -> Defect:
        """Asserts one defect whose line holds all of `expected`, and that skip leaves out just that image."""
        found = self.defects()
        assert len(found) == 1, [str(defect) for defect in found]
        for text in expected:
            assert text in str(found[0]), str(found[0])
        if found[0].fatal:
            with pytest.raises(DataError):
                self.open(on_defect="skip")
            return found[0]
        kept = self.open(on_defect="skip")
        names = [self.name(self.image(i)) for i in range(NUM) if i != left_out]
        assert list(kept.files) == names
        assert any(str(found[0]) in line for line in self.lines)
        return found[0]
