"""Small data sets on disk, written without the code under test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bifocals.data import Annotations, Data, DataError, Defect, check_dataset, open_split

WIDTH, HEIGHT = 64, 48
CLASSES = ("cat", "dog")
# xyxy and class of the objects of each image
OBJECTS = [
    [((4, 6, 30, 40), 0), ((20, 10, 60, 44), 1)],
    [((2, 2, 12, 14), 1)],
    [((8, 8, 40, 30), 0), ((1, 1, 63, 47), 1), ((30, 20, 50, 40), 0)],
]


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """A picture with some structure, so that files are not trivially small."""
    draws = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return Image.fromarray(draws).resize((width, height), Image.Resampling.BILINEAR)


def coco_content() -> dict[str, Any]:
    images = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(len(OBJECTS))]
    annotations = [
        {"image_id": 10 + i, "category_id": (3, 7)[label], "bbox": [x1, y1, x2 - x1, y2 - y1],
         "area": (x2 - x1) * (y2 - y1) / 2, "iscrowd": 0}
        for i, objects in enumerate(OBJECTS)
        for (x1, y1, x2, y2), label in objects
    ]  # fmt: skip
    for number, record in enumerate(annotations):
        record["id"] = 100 + number
    return {"info": {}, "images": images, "annotations": annotations,
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}  # fmt: skip


def voc_xml(name: str, objects: list[tuple[tuple[float, ...], int]], width: int = WIDTH, height: int = HEIGHT) -> str:
    items = "".join(
        f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in objects
    )
    return (f"<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>"
            f"<depth>3</depth></size>{items}</annotation>")  # fmt: skip


def yolo_line(box: tuple[float, ...], label: int) -> str:
    x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
    return f"{label} " + " ".join(f"{share:.9f}" for share in shares)


@dataclass
class SmallSet:
    """Three sound pictures with their annotations in one of the formats, to be spoilt by a test."""

    format: str
    root: Path
    lines: list[str] = field(default_factory=list)

    def image(self, i: int) -> Path:
        return self.root / {"coco": "train2017", "voc": "JPEGImages", "yolo": "images/train"}[self.format] / f"{i}.jpg"

    def source(self, i: int) -> Path:
        name = {"coco": "annotations/instances_train2017.json", "voc": f"Annotations/{i}.xml",
                "yolo": f"labels/train/{i}.txt"}[self.format]  # fmt: skip
        return self.root / name

    def write(self) -> SmallSet:
        for i, objects in enumerate(OBJECTS):
            for path in (self.image(i), self.source(i)):
                path.parent.mkdir(parents=True, exist_ok=True)
            picture(seed=i).save(self.image(i), quality=90)
            if self.format == "voc":
                self.source(i).write_text(voc_xml(str(i), objects))
            elif self.format == "yolo":
                self.source(i).write_text("".join(yolo_line(*item) + "\n" for item in objects))
        if self.format == "coco":
            self.source(0).write_text(json.dumps(coco_content()))
        elif self.format == "voc":
            listing = self.root / "ImageSets" / "Main" / "train.txt"
            listing.parent.mkdir(parents=True)
            listing.write_text("0\n1\n2\n")
        else:
            (self.root / "data.yaml").write_text("train: images/train\nnc: 2\nnames: [cat, dog]\n")
        return self

    def open(self, **options: Any) -> Annotations:
        self.lines.clear()
        return open_split(Data(root=str(self.root), **options), "train", log=self.lines.append)

    def one_defect(self, *expected: str, left_out: int | None) -> Defect:
        """Asserts one defect whose line holds all of `expected`, and that skip leaves out just that image."""
        with pytest.raises(DataError) as caught:
            self.open()
        assert len(caught.value.defects) == 1, str(caught.value)
        defect = caught.value.defects[0]
        line = str(defect)
        assert "\n" not in line
        assert line.isprintable()
        for text in expected:
            assert text in line, line
        assert line in str(caught.value)
        assert [str(d) for d in check_dataset(self.root)] == [line]
        if defect.fatal:
            with pytest.raises(DataError):
                self.open(on_defect="skip")
            return defect
        kept = self.open(on_defect="skip")
        names = [f"{i}.jpg" for i in range(len(OBJECTS)) if i != left_out]
        assert [name.split("/")[-1] for name in kept.files] == names
        assert any(line in logged for logged in self.lines)
        counts = [len(OBJECTS[int(name[0])]) for name in names]
        assert np.diff(kept.offsets).tolist() == counts  # nobody lost a label and stayed as background
        return defect
