"""Pictures in, pictures and COCO results out; a file that is no picture is named and skipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hotcoco import COCO
from PIL import Image
from torch import nn

from bifocals.data import Input, decode_masks, eval_transform
from bifocals.predict import Postprocess, coco_results, find_pictures, predict, save_results
from bifocals.structures import Detections

SETTINGS = {"transform": eval_transform(Input(short=32, long=64)), "postprocess": Postprocess(0.3), "output": "one2one",
            "classes": ["dark", "bright"], "log": lambda line: None}


def picture(path: Path, cell: int, orientation: int = 1, size: tuple[int, int] = (64, 32)) -> None:
    """A black picture with a white cell of 8x8 in its first row."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:8, cell * 8 : cell * 8 + 8] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif) if orientation != 1 else image.save(path)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_folder_of_good_and_bad_files(tmp_path: Path, brightest: nn.Module) -> None:
    source = tmp_path / "in"
    picture(source / "b.png", 2)
    picture(source / "a.png", 5)
    picture(source / "deep" / "a.PNG", 1)
    (source / "empty.jpg").write_bytes(b"")
    (source / "page.jpg").write_text("<html><body>not found</body></html>")
    (source / "cut.png").write_bytes((source / "a.png").read_bytes()[:60])
    (source / "notes.txt").write_text("no picture")
    lines: list[str] = []
    out = tmp_path / "out"
    made = predict(brightest, [source], out=out, **{**SETTINGS, "log": lines.append})
    assert [p.name for p in made.pictures] == ["a.png", "b.png", "deep/a.PNG"]
    assert [p.detections.boxes.tolist() for p in made.pictures] == [
        [[40, 0, 48, 8]], [[16, 0, 24, 8]], [[8, 0, 16, 8]],
    ]
    assert len(made.skipped) == len(lines) == 3
    assert ["cut.png" in made.skipped[0], "empty.jpg" in made.skipped[1], "page.jpg" in made.skipped[2]] == [True] * 3
    for name in ("a", "b", "deep/a"):
        assert size_of(out / "pictures" / f"{name}.jpg") == (64, 32)
    records = json.loads((out / "results.json").read_text())
    assert [(r["file_name"], r["bbox"], r["category_id"]) for r in records] == [
        ("a.png", [40.0, 0.0, 8.0, 8.0], 2),
        ("b.png", [16.0, 0.0, 8.0, 8.0], 2),
        ("deep/a.PNG", [8.0, 0.0, 8.0, 8.0], 2),
    ]
    truth = COCO(str(out / "images.json"))
    assert len(truth.load_res(str(out / "results.json")).anns) == 3  # ids of results and images agree
    assert truth.imgs[1]["file_name"] == "a.png"
    again = predict(brightest, [source], out=source / "out", **SETTINGS)
    assert len(predict(brightest, [source], out=source / "out", **SETTINGS).pictures) == len(again.pictures)


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path, brightest: nn.Module) -> None:
    picture(tmp_path / "turned.png", 0, orientation=6)  # shown a quarter turn clockwise: 32 wide, 64 high
    made = predict(brightest, [tmp_path / "turned.png"], out=tmp_path / "out", **SETTINGS)
    assert made.pictures[0].size_hw == (64, 32)
    assert made.pictures[0].detections.boxes.tolist() == [[24, 0, 32, 8]]
    assert size_of(tmp_path / "out" / "pictures" / "turned.jpg") == (32, 64)


def test_batches_hold_pictures_of_one_size_and_change_nothing(tmp_path: Path, brightest: nn.Module) -> None:
    for i, size in enumerate([(64, 32), (64, 32), (64, 32), (32, 64), (64, 32)]):
        picture(tmp_path / f"{i}.png", i % 4, size=size)
    one = predict(brightest, [tmp_path], **SETTINGS)
    brightest.batch_sizes.clear()  # type: ignore[operator,union-attr]
    two = predict(brightest, [tmp_path], batch_size=2, workers=3, **SETTINGS)
    assert brightest.batch_sizes == [2, 1, 1, 1]
    for a, b in zip(one.pictures, two.pictures, strict=True):
        assert a.path == b.path
        assert torch.equal(a.detections.boxes, b.detections.boxes)


def test_names_are_unique(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/a.jpg", "y/a.png", "y/b.PNG"):
        picture(tmp_path / name, 0)
    found = find_pictures([tmp_path / "x", tmp_path / "y", tmp_path / "y" / "b.PNG"])
    assert [name for _, name in found] == ["a.jpg", "a-2.png", "a-3.png", "b.PNG", "b-2.PNG"]


def test_paths_that_hold_nothing_are_refused(tmp_path: Path, brightest: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"gone.jpg', which does not exist"):
        predict(brightest, [tmp_path / "gone.jpg"], **SETTINGS)
    with pytest.raises(ValueError, match="expected pictures, got none"):
        predict(brightest, [tmp_path], **SETTINGS)


def test_results_name_the_category_ids_of_the_annotation_file(tmp_path: Path) -> None:
    found = {7: Detections(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.1]), torch.tensor([1])),
             3: Detections.empty()}
    assert coco_results(found, [18, 90]) == [
        {"image_id": 7, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": round(float(torch.tensor(0.1)), 9)}
    ]
    save_results(tmp_path / "r.json", found, [18, 90])
    assert json.loads((tmp_path / "r.json").read_text()) == coco_results(found, [18, 90])
    with pytest.raises(ValueError, match="got label 1 in image 7; there are 1 category ids"):
        coco_results(found, [18])


def test_masks_go_into_the_results_as_run_lengths():
    """A mask that fills the left half of a box of 4 x 2 pixels at (1, 1)."""
    half = torch.zeros(1, 4, 4)
    half[:, :, :2] = 1
    found = Detections(torch.tensor([[1.0, 1, 5, 3]]), torch.tensor([0.5]), torch.tensor([0]), half)
    record = coco_results({3: found}, [7], sizes_hw={3: (4, 6)})[0]
    assert record["segmentation"]["size"] == [4, 6]
    drawn = decode_masks([record["segmentation"]["counts"]], (4, 6))[0]
    expected = torch.zeros(4, 6, dtype=torch.uint8)
    expected[1:3, 1:3] = 1
    assert torch.equal(drawn, expected)
    assert "segmentation" not in coco_results({3: found}, [7])[0]
