"""COCO AP of masks: recorded numbers, pycocotools, and numbers that a person can verify."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bifocals.data import Annotations, Input, PackedStrings, encode_masks, eval_transform, load_coco
from bifocals.evaluate import average_precision, evaluate, mask_average_precision, pasted_masks
from bifocals.evaluate.mask_ap import masks_of
from bifocals.predict import paste_masks
from bifocals.structures import Detections, Target
from tests.data.small_set import picture
from tests.evaluate.by_hand import annotated, found

# shared/data/README.md
EVAL_NUMBERS = (.320, .562, .299, .387, .310, .327, .268, .415, .417, .469, .377, .381)
ONE = pytest.approx(1, abs=1e-12)


def rectangle(box: list[float], hw: tuple[int, int] = (100, 100)) -> str:
    mask = torch.zeros(1, *hw, dtype=torch.uint8)
    x1, y1, x2, y2 = map(int, box)
    mask[0, y1:y2, x1:x2] = 1
    return encode_masks(mask)[0]


def with_masks(annotations: Annotations, boxes: list[list[float]]) -> Annotations:
    return replace(annotations, segmentations=PackedStrings.pack(rectangle(b) if b else "" for b in boxes))


def test_real_annotations(shared: Path) -> None:
    """The fake mask results of pycocotools: masks of any form, crowd regions among the objects."""
    folder = shared / "data" / "eval"
    annotations = load_coco(folder / "instances_val2014_100.json", folder, masks=True)
    records = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    label = {category: i for i, category in enumerate(annotations.category_ids)}
    by_image: dict[int, list[dict]] = {}
    for record in records:
        by_image.setdefault(record["image_id"], []).append(record)
    detections = {i: found(*[([0, 0, 1, 1], r["score"], label[r["category_id"]]) for r in rows])
                  for i, rows in by_image.items()}
    masks = {i: [r["segmentation"]["counts"] for r in rows] for i, rows in by_image.items()}
    result = mask_average_precision(detections, annotations, masks=masks)
    np.testing.assert_allclose(list(result.stats.values()), EVAL_NUMBERS, atol=5.01e-4)

    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    truth = coco.COCO(str(folder / "instances_val2014_100.json"))
    theirs = cocoeval.COCOeval(truth, truth.loadRes(records), "segm")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    np.testing.assert_allclose(list(result.stats.values()), theirs.stats, atol=1e-12)


BOX, HALF = [10.0, 10.0, 50.0, 50.0], [10.0, 10.0, 50.0, 30.0]


def test_masks_count_not_boxes() -> None:
    """The same box; the mask is its upper half. IoU .5 finds it at one of ten thresholds."""
    annotations = with_masks(annotated([(0, BOX, 0)], num_images=1), [BOX])
    detections = {0: found((BOX, 0.9, 0))}
    assert average_precision(detections, annotations).ap == ONE
    assert mask_average_precision(detections, annotations, masks={0: [rectangle(BOX)]}).ap == ONE
    half = mask_average_precision(detections, annotations, masks={0: [rectangle(HALF)]})
    assert half.ap == pytest.approx(0.1)
    assert half.stats["AP50"] == ONE
    assert half.stats["AP75"] == 0


def test_a_detection_is_as_large_as_its_mask() -> None:
    """A large object, found; beside it a detection with a large box and the mask of a small thing, a better score.

    By its box it would be an error among the large ones; by its mask it is none there.
    """
    large = [0.0, 0.0, 100.0, 99.0]
    annotations = with_masks(annotated([(0, large, 0)], num_images=1), [large])
    detections = {0: found((large, 0.9, 0), ([0.0, 0.0, 100.0, 100.0], 0.95, 0))}
    result = mask_average_precision(detections, annotations, masks={0: [rectangle(large), rectangle([0, 99, 9, 100])]})
    assert result.stats["APl"] == ONE
    assert result.ap == pytest.approx(0.5)


def test_crowd_takes_what_lies_in_it_and_objects_may_be_without_mask() -> None:
    crowd = [0.0, 0.0, 100.0, 60.0]
    annotations = annotated([(0, [60.0, 70.0, 90.0, 90.0], 0), (0, crowd, 0)], num_images=1, crowd=[False, True])
    detections = {0: found(([60, 70, 90, 90], 0.8, 0), ([5, 5, 20, 20], 0.9, 0), ([30, 5, 50, 20], 0.95, 0))}
    masks = {0: [rectangle([60, 70, 90, 90]), rectangle([5, 5, 20, 20]), rectangle([30, 5, 50, 20])]}
    both = with_masks(annotations, [[60, 70, 90, 90], crowd])
    assert mask_average_precision(detections, both, masks=masks).ap == ONE
    bare = with_masks(annotations, [[60, 70, 90, 90], []])  # a crowd region without pixels holds nothing
    assert mask_average_precision(detections, bare, masks=masks).ap == pytest.approx(1 / 3)


def test_masks_of_cells_are_pasted() -> None:
    """An image of another order and size each, detections with cells, and an image without any."""
    annotations = with_masks(annotated([(0, BOX, 0), (1, HALF, 0)], num_images=3, image_ids=[9, 4, 7]), [BOX, HALF])
    whole = torch.ones(1, 28, 28)
    detections = {
        4: replace(found((HALF, 0.7, 0)), masks=whole), 9: replace(found((BOX, 0.9, 0)), masks=whole),
        7: Detections.empty(),
    }
    assert mask_average_precision(detections, annotations).ap == ONE
    whole[:, 14:] = 0
    assert mask_average_precision(detections, annotations).ap == pytest.approx(0.1)
    order = {i: detections[i] for i in (9, 7, 4)}
    assert mask_average_precision(order, annotations).ap == pytest.approx(0.1)


def test_what_is_not_there_is_said() -> None:
    annotations = annotated([(0, BOX, 0)], num_images=1)
    detections = {0: found((BOX, 0.9, 0))}
    with pytest.raises(ValueError, match="annotations with segmentations"):
        mask_average_precision(detections, annotations)
    annotations = with_masks(annotations, [BOX])
    with pytest.raises(ValueError, match="detections with masks, got 1 without"):
        mask_average_precision(detections, annotations)
    with pytest.raises(ValueError, match="a mask of each of the 1 detections of image id 0, got 2"):
        mask_average_precision(detections, annotations, masks={0: [rectangle(BOX)] * 2})
    with pytest.raises(ValueError, match="ids of the 1 annotated images"):
        mask_average_precision({3: detections[0]}, annotations, masks={3: [rectangle(BOX)]})
    assert mask_average_precision({}, annotations).ap == 0
    assert np.isnan(mask_average_precision({}, with_masks(annotated([], num_images=1), [])).ap)


def test_pasting_by_hand() -> None:
    """Cells of 10 pixels with centers at 15 and 25, and 25 and 35: linear between them, and half a cell beyond."""
    rise = [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    across, down = torch.zeros(50), torch.zeros(50)
    across[5:15], across[15:25] = torch.tensor(rise), torch.tensor(rise[::-1])  # the left column alone is sure
    down[15:25], down[25:35], down[35:45] = torch.tensor(rise), 1, torch.tensor(rise[::-1])
    expected = down[:, None] * across >= 0.5
    assert expected[30].nonzero()[:, 0].tolist() == list(range(10, 20))  # up to the middle, corners rounded off
    mask, box = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    pasted = paste_masks(mask, box, (50, 50))
    assert pasted.dtype is torch.uint8
    assert torch.equal(pasted[0].bool(), expected)
    # Half a pixel further, the centers of pixels lie on the edge, where the value is just .5: that counts.
    shifted = paste_masks(torch.ones(1, 2, 2), box + 0.5, (50, 50))[0]
    assert shifted[30].nonzero()[:, 0].tolist() == list(range(10, 31))


def test_pasting_beyond_the_image_and_boxes_without_a_side() -> None:
    torch.manual_seed(1)
    boxes = torch.tensor([[-20.0, -30.0, 40.0, 50.0], [5.0, 5.0, 5.0, 20.0], [70.0, 70.0, 90.0, 90.0],
                          [10.3, 12.7, 33.1, 29.9], [-1e6, -1e6, 1e6, 1e6], [2.0, 3.0, 2.2, 3.1]])
    masks = torch.rand(len(boxes), 7, 7)
    pasted = paste_masks(masks, boxes, (40, 60))
    assert pasted.shape == (6, 40, 60)
    assert not pasted[1].any() and not pasted[2].any()
    for mask, box, ours in zip(masks, boxes, pasted, strict=True):  # one by one, all pixels at once
        x1, y1, x2, y2 = box.tolist()
        if x2 <= x1:
            continue
        y, x = torch.meshgrid((torch.arange(40) + 0.5 - y1) / (y2 - y1) * 2 - 1,
                              (torch.arange(60) + 0.5 - x1) / (x2 - x1) * 2 - 1, indexing="ij")
        whole = nn.functional.grid_sample(mask[None, None], torch.stack([x, y], dim=-1)[None], align_corners=False)
        assert torch.equal(ours.bool(), whole[0, 0] >= 0.5)
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (4, 5)).shape == (0, 4, 5)


def test_masks_of_a_batch() -> None:
    size, original = (50, 50), (100, 100)
    targets = [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), size,
                      original, image_id) for image_id in (3, 8)]
    some = replace(found((BOX, 0.9, 0)), masks=torch.ones(1, 28, 28))
    none = replace(Detections.empty(), masks=torch.zeros(0, 28, 28))
    assert masks_of([some, none], targets) == {3: [rectangle(BOX)], 8: []}
    assert masks_of([found((BOX, 0.9, 0)), Detections.empty()], targets) == {}
    assert pasted_masks(Detections.empty(), original) == []


class Upper(nn.Module):
    """Finds in each picture the box that it is told, with a mask of its upper half."""

    outputs = ("roi",)
    size_divisor = 1

    def __init__(self, box: list[float]) -> None:
        super().__init__()
        self.box = nn.Parameter(torch.tensor([box]))

    def forward(self, images: Tensor, targets: object = None) -> dict[str, Tensor]:
        return {"roi": self.box.detach().expand(len(images), 4)}


class AsTold:
    """A postprocess of that output."""

    nms: float | None = 0.5
    max_detections = 100

    def __call__(self, output: Tensor, targets: tuple[Target, ...]) -> list[Detections]:
        mask = torch.ones(1, 28, 28)
        mask[:, 14:] = 0
        return [Detections(box[None], torch.tensor([0.9]), torch.tensor([0]), mask) for box in output]


def test_evaluate_reports_both(tmp_path: Path) -> None:
    for i in range(2):
        picture(100, 100, seed=i).save(tmp_path / f"{i}.jpg")
    annotations = replace(annotated([(0, BOX, 0), (1, BOX, 0)]), root=tmp_path)
    options = {"transform": eval_transform(Input(50, 50)), "postprocess": {"roi": AsTold()}, "output": "roi"}
    plain = evaluate(Upper(BOX), annotations, **options)  # type: ignore[arg-type]
    assert plain.masks is None
    assert plain.to_json()["masks"] is None
    assert "masks" not in plain.summary() and "masks" not in plain.line()
    result = evaluate(Upper(BOX), with_masks(annotations, [BOX, BOX]), **options)  # type: ignore[arg-type]
    assert result.ap == ONE
    assert result.masks is not None
    assert result.masks.ap == pytest.approx(0.1)
    assert result.to_json()["masks"]["AP"] == pytest.approx(0.1)
    assert result.to_json()["masks"]["per_class"]["0"]["AP50"] == ONE
    assert "\nAP of masks " in result.summary()
    assert "AP of masks 0.1000" in result.line()
    assert all(d.masks is None for d in result.detections.values())
