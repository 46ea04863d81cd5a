"""Instance masks of COCO JSON: polygons and run lengths, sound and broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bifocals.data import Annotations, Data, DataError, check_dataset, load_coco, open_split, save_coco
from bifocals.data.segmentations import MaskProblem, decode_masks, run_lengths
from tests.data.small_set import HEIGHT, OBJECTS, WIDTH, SmallSet

OLD_NUMPY = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
HW = (HEIGHT, WIDTH)
JSON = "annotations/instances_train2017.json"


def polygon(box: tuple[float, ...]) -> list[list[float]]:
    x1, y1, x2, y2 = box
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def filled(box: tuple[float, ...]) -> torch.Tensor:
    mask = torch.zeros(HW, dtype=torch.uint8)
    x1, y1, x2, y2 = (int(v) for v in box)
    mask[y1:y2, x1:x2] = 1
    return mask


def runs(mask: torch.Tensor) -> list[int]:
    """Run lengths down the columns, from zeros on, counted one by one."""
    counts, current = [0], 0
    for value in mask.T.flatten().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def masked(coco: SmallSet, change: dict[int, Any] | None = None) -> SmallSet:
    """Every object gets its box as a polygon; `change` gives others for some annotation ids, None takes it away."""
    content = json.loads(coco.source(0).read_text())
    for record in content["annotations"]:
        x, y, w, h = record["bbox"]
        record["segmentation"] = polygon((x, y, x + w, y + h))
        if record["id"] in (change or {}):
            record["segmentation"] = change[record["id"]]  # type: ignore[index]
            if record["segmentation"] is None:
                del record["segmentation"]
    coco.source(0).write_text(json.dumps(content))
    return coco


def opened(coco: SmallSet, **options: Any) -> Annotations:
    coco.lines.clear()
    return open_split(Data(root=str(coco.root), **options), "train", log=coco.lines.append, masks=True)


def test_polygons_and_run_lengths_are_one(coco: SmallSet) -> None:
    boxes = [box for objects in OBJECTS for box, _ in objects]
    plain = runs(filled(boxes[1]))
    halves = [[20, 10, 40, 10, 40, 44, 20, 44], [40, 10, 60, 10, 60, 44, 40, 44]]
    annotations = opened(masked(coco, {
        101: {"size": [HEIGHT, WIDTH], "counts": plain},
        102: {"size": [HEIGHT, WIDTH], "counts": run_lengths(json.dumps(polygon(boxes[2])), HW)},
        103: polygon(boxes[3]),
    }))  # fmt: skip
    assert any("masks of 6 of 6 objects" in line for line in coco.lines)
    for index, objects in enumerate(OBJECTS):
        target = annotations.source(index)[1]
        assert target.masks is not None
        assert torch.equal(target.masks, torch.stack([filled(box) for box, _ in objects]))
    assert decode_masks([run_lengths(json.dumps(halves), HW)], HW)[0].equal(filled(boxes[1]))


@OLD_NUMPY
def test_polygons_are_drawn_as_coco_draws_them() -> None:
    """Against pycocotools on random polygons, corners off the grid and beyond the image among them."""
    other = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(100):
        rings = [rng.uniform(-10, 80, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(rng.integers(1, 4))]
        ours = decode_masks([run_lengths(json.dumps(rings), HW)], HW)[0].numpy()
        theirs = other.decode(other.merge(other.frPyObjects(rings, *HW)))
        np.testing.assert_array_equal(ours, theirs)


def test_masks_are_read_only_where_asked_for(coco: SmallSet) -> None:
    masked(coco, {102: "broken"})
    annotations = coco.open()
    assert annotations.segmentations is None
    assert annotations.source(0)[1].masks is None
    assert check_dataset(coco.root) == []
    assert len(check_dataset(coco.root, masks=True)) == 1


BROKEN: list[tuple[Any, tuple[str, ...]]] = [
    ("0 1 2", ("polygons, or run lengths with size and counts", '"0 1 2"')),
    ([[2, 2, 12, 14]], ("polygons of x and y of 3 points or more", "4 numbers: 2 2 12 14")),
    ([[2, 2, 12, 2, 12, 14, 2]], ("3 points or more", "7 numbers")),
    ([[]], ("3 points or more", "0 numbers")),
    ([[2, 2, 12, 2, 12, 14], [3, 3]], ("3 points or more", "2 numbers: 3 3")),
    ([2, 2, 12, 2, 12, 14], ("polygons, or run lengths", "[2, 2, 12")),
    ([[2, 2, 12, 2, 12, None]], ("polygons, or run lengths", "null")),
    ([[2, 2, 12, 2, 12, True]], ("polygons, or run lengths", "true")),
    ({"size": [HEIGHT, WIDTH]}, ("polygons, or run lengths", "size")),
    ({"counts": [HEIGHT * WIDTH]}, ("polygons, or run lengths", "counts")),
    ({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, ("size [48, 64]", "got [64, 48]")),
    ({"size": [HEIGHT, WIDTH], "counts": [5, 6]}, ("sum to the 3072 pixels", "got 11")),
    ({"size": [HEIGHT, WIDTH], "counts": [5, -6, HEIGHT * WIDTH + 1]}, ("sum to the 3072 pixels", "negative one, -6")),
    ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 1]}, ("sum to the 3072 pixels", "got 3073")),
    ({"size": [HEIGHT, WIDTH], "counts": []}, ("sum to the 3072 pixels", "got 0")),
    ({"size": [HEIGHT, WIDTH], "counts": [10**30]}, ("sum to the 3072 pixels", "got 1" + "0" * 30)),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5]}, ("polygons, or run lengths", "1.5")),
    ({"size": [HEIGHT, WIDTH], "counts": "12"}, ("sum to the 3072 pixels", "got fewer: 12")),
    ({"size": [HEIGHT, WIDTH], "counts": ""}, ("sum to the 3072 pixels",)),
    ({"size": [HEIGHT, WIDTH], "counts": "o" * 50}, ("sum to the 3072 pixels", "ooo")),
    ({"size": [HEIGHT, WIDTH], "counts": "\u00e9\n"}, ("sum to the 3072 pixels",)),
    (None, ("a segmentation, as others have", "got nothing")),
    ([], ("a segmentation, as others have", "got []")),
]


@pytest.mark.parametrize(("broken", "expected"), BROKEN)
def test_a_broken_mask_is_one_line(coco: SmallSet, broken: Any, expected: tuple[str, ...]) -> None:
    masked(coco, {102: broken})
    with pytest.raises(DataError) as caught:
        opened(coco)
    [defect] = caught.value.defects
    line = str(defect)
    assert line.startswith(f"{JSON}: annotation 102 (1.jpg): expected ")
    assert line.isprintable()
    for text in expected:
        assert text in line, line
    assert [str(d) for d in check_dataset(coco.root, masks=True)] == [line]
    kept = opened(coco, on_defect="skip")
    assert list(kept.files) == ["0.jpg", "2.jpg"]
    assert kept.segmentations is not None
    assert len(kept.segmentations) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [("NaN", "valid JSON"), ("1e999", "polygons, or run lengths"), ("Infinity", "valid JSON"),
     ("[" * 100_000 + "]" * 100_000, "nesting")],
)  # fmt: skip
def test_numbers_that_are_none(coco: SmallSet, text: str, expected: str) -> None:
    masked(coco, {102: [[2, 2, 12, 2, 12, 77777]]})
    coco.source(0).write_text(coco.source(0).read_text().replace("77777", text))
    with pytest.raises(DataError) as caught:
        opened(coco)
    [defect] = caught.value.defects
    assert "annotation 102" in str(defect) and expected in str(defect)
    assert "\n" not in str(defect)


def test_a_polygon_beyond_the_image_is_cut_off(coco: SmallSet) -> None:
    far = [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]
    annotations = opened(masked(coco, {102: far}))
    assert annotations.source(1)[1].masks.all()  # type: ignore[union-attr]


def test_crowd_may_be_without_a_mask_and_stays_crowd(coco: SmallSet) -> None:
    masked(coco, {102: None})
    content = json.loads(coco.source(0).read_text())
    content["annotations"][2]["iscrowd"] = 1
    coco.source(0).write_text(json.dumps(content))
    annotations = opened(coco)
    assert annotations.crowd.tolist() == [False, False, True, False, False, False]
    target = annotations.source(1)[1]
    assert target.masks is not None
    assert target.masks.shape == (1, *HW)
    assert not target.masks.any()
    assert any("masks of 5 of 6 objects" in line for line in coco.lines)


def test_sets_without_masks(coco: SmallSet, tmp_path: Path) -> None:
    voc = SmallSet("voc", tmp_path / "other").write()
    assert load_coco(coco.source(0), coco.image(0).parent, masks=True).segmentations is None
    for small in (coco, voc):
        with pytest.raises(ValueError, match=f"expected masks of its objects.* got {small.format} with none in 6"):
            open_split(Data(root=str(small.root)), "train", log=None, masks=True)
    content = json.loads(coco.source(0).read_text())
    coco.source(0).write_text(json.dumps(content | {"annotations": []}))
    assert opened(coco).segmentations is not None  # no object lacks a mask


def test_an_image_of_unknown_size(coco: SmallSet) -> None:
    """The size comes with the picture; where pictures are not opened there is none."""
    masked(coco)
    content = json.loads(coco.source(0).read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    coco.source(0).write_text(json.dumps(content))
    assert opened(coco).source(0)[1].masks.sum() > 0  # type: ignore[union-attr]
    with pytest.raises(DataError, match="an image of known size") as caught:
        load_coco(coco.source(0), coco.image(0).parent, masks=True)
    assert len(caught.value.defects) == 6
    coco.image(1).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        opened(coco)
    assert len(caught.value.defects) == 1  # of the picture, not of its masks too


def test_round_trip(coco: SmallSet, tmp_path: Path) -> None:
    before = load_coco(masked(coco).source(0), coco.image(0).parent, masks=True)
    path = save_coco(before, tmp_path / "copy.json")
    after = load_coco(path, coco.image(0).parent, masks=True)
    assert after.segmentations == before.segmentations
    assert after.fingerprint() == before.fingerprint()
    assert "segmentation" not in save_coco(before.without_masks(), tmp_path / "bare.json").read_text()


def test_holdout_keeps_masks_with_their_objects(coco: SmallSet) -> None:
    masked(coco)
    seen = {}
    for split in ("train", "val"):
        part = open_split(Data(root=str(coco.root), holdout=0.34), split, log=None, masks=True)  # type: ignore[arg-type]
        for i, file in enumerate(part.files):
            seen[file] = part.source(i)[1]
    for i, objects in enumerate(OBJECTS):
        masks = seen[f"{i}.jpg"].masks
        assert masks is not None
        assert torch.equal(masks, torch.stack([filled(box) for box, _ in objects]))


def test_nothing_is_no_mask() -> None:
    for text in ("", "null", "[]"):
        assert run_lengths(text, HW) == ""
    with pytest.raises(MaskProblem, match="known size"):
        run_lengths("[[1, 1, 5, 1, 5, 5]]", (0, 0))


@OLD_NUMPY
@pytest.mark.parametrize(
    ("name", "file", "objects"),
    [("occlusion", "train/_annotations.coco.json", 326), ("occlusion", "valid/_annotations.coco.json", 80),
     ("coco128", "annotations/instances_train2017.json", 939), ("eval", "instances_val2014_100.json", 839)],
)  # fmt: skip
def test_real_masks(shared: Path, name: str, file: str, objects: int) -> None:
    """Polygons, run lengths compressed and not, and crowd regions: as many pixels as pycocotools has."""
    path = shared / "data" / name / file
    if not path.is_file():
        pytest.skip(f"no {name} in {shared}")
    annotations = load_coco(path, masks=True)
    assert annotations.segmentations is not None
    assert len(annotations.segmentations) == objects
    other = pytest.importorskip("pycocotools.mask")
    records = {r["id"]: r for r in json.loads(path.read_text())["annotations"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for record in records.values():
        by_image.setdefault(record["image_id"], []).append(record)
    for i in range(0, len(annotations), 9):
        size_hw = (int(annotations.sizes_hw[i, 0]), int(annotations.sizes_hw[i, 1]))
        rows = slice(annotations.offsets[i], annotations.offsets[i + 1])
        ours = decode_masks(annotations.segmentations[rows], size_hw)
        for mask, record in zip(ours, by_image.get(int(annotations.image_ids[i]), []), strict=True):
            written = record["segmentation"]
            if isinstance(written, list) or isinstance(written["counts"], list):
                written = other.frPyObjects(written, *size_hw)
            theirs = other.decode(other.merge(written) if isinstance(written, list) else written)
            np.testing.assert_array_equal(mask.numpy(), theirs)
