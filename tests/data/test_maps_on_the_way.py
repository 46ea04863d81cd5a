"""Masks of objects and classes of pixels follow their image through transforms, workers and batches."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bifocals.data import (
    Annotations,
    DetectionDataset,
    Input,
    PackedStrings,
    collate,
    eval_stream,
    eval_transform,
    train_stream,
    train_transform,
)
from bifocals.data.segmentations import decode_masks, encode_masks
from bifocals.structures import Batch, Target
from tests.data.small_set import picture

NUM = 7


def scene(height: int = 120, width: int = 200) -> tuple[Tensor, Target]:
    """White boxes on black; their masks and a map of classes are those very pixels."""
    boxes = [(20, 30, 80, 90), (100, 10, 180, 50), (0, 0, 6, 6)]
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    image[:, masks.any(dim=0).bool()] = 255
    semantic = masks.any(dim=0).to(torch.uint8) * 3
    semantic[:, -3:] = 255
    size = (height, width)
    target = Target(torch.tensor(boxes).float(), torch.arange(3), torch.zeros(3, dtype=torch.bool), size, size, 7,
                    masks=masks, semantic=semantic)
    return image, target


@pytest.mark.parametrize("input", [Input(60, 100), Input(57, 300), Input(240, 600), Input(120, 200)])
def test_masks_lie_on_their_objects_after_a_resize(input: Input) -> None:
    image, target = eval_transform(input)(*scene())
    assert target.masks is not None and target.semantic is not None
    assert target.masks.dtype is target.semantic.dtype is torch.uint8
    assert target.masks.shape == (3, *target.size_hw)
    assert target.semantic.shape == target.size_hw
    # A mask is where the picture is bright: on each side the two agree to within the pixel that the edge crosses.
    for mask, (x1, y1, x2, y2) in zip(target.masks, target.boxes.tolist(), strict=True):
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        found = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        assert np.abs(np.array(found) - (x1, y1, x2, y2)).max() <= 0.5 + 1e-5
    off = (target.masks.any(dim=0).bool() != (image[0] > 127)).float().mean()
    assert off < 0.01
    assert torch.equal(target.semantic == 3, target.masks.any(dim=0).bool() & (target.semantic != 255))
    assert (target.semantic[:, -1] == 255).all()


def test_centers_decide() -> None:
    """Four pixels halved: the centers of the new ones lie on an edge, the right pixel wins; thirds hit the middle."""
    image, target = torch.zeros(3, 6, 6, dtype=torch.uint8), scene()[1]
    row = torch.arange(6, dtype=torch.uint8)
    target = replace(target, semantic=row.expand(6, 6).contiguous(), masks=None, size_hw=(6, 6), original_hw=(6, 6))
    for side, expected in ((3, [1, 3, 5]), (2, [1, 4]), (12, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])):
        _, resized = eval_transform(Input(side, side))(image, target)
        assert resized.semantic is not None
        assert resized.semantic[0].tolist() == expected


def test_flip_and_crop_take_the_maps_along_and_change_no_draw() -> None:
    transform = train_transform(Input(60, 100, augment="detr", photometric=True))
    image, target = scene()
    bare = replace(target, masks=None, semantic=None)
    kept = set()
    for seed in range(30):
        torch.manual_seed(seed)
        plain, boxes = transform(image, bare)
        torch.manual_seed(seed)
        same, mapped = transform(image, target)
        assert torch.equal(plain, same)
        assert torch.equal(boxes.boxes, mapped.boxes)
        assert torch.equal(boxes.labels, mapped.labels)
        assert boxes.masks is None and boxes.semantic is None
        assert mapped.masks is not None and mapped.semantic is not None
        assert type(mapped.masks) is type(mapped.semantic) is Tensor
        assert mapped.masks.shape == (len(mapped.boxes), *mapped.size_hw)
        assert mapped.semantic.shape == mapped.size_hw
        for mask, (x1, y1, x2, y2) in zip(mapped.masks, mapped.boxes.tolist(), strict=True):
            around = mask[max(0, floor(y1) - 1) : ceil(y2) + 1, max(0, floor(x1) - 1) : ceil(x2) + 1]
            assert int(mask.sum()) == int(around.sum())
            assert mask[ceil(y1) + 1 : floor(y2) - 1, ceil(x1) + 1 : floor(x2) - 1].all()
        kept.add(len(mapped.boxes))
    assert kept >= {2, 3}  # masks go with their boxes where a crop leaves one out


def test_no_objects() -> None:
    image, target = scene()
    none = replace(target, boxes=target.boxes[:0], labels=target.labels[:0], crowd=target.crowd[:0],
                   masks=target.masks[:0])  # type: ignore[index]
    for transform in (eval_transform(Input(60, 100)), train_transform(Input(60, 100, augment="detr"))):
        _, found = transform(image, none)
        assert found.masks is not None
        assert found.masks.shape == (0, *found.size_hw)


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    """Seven pictures of different sizes with rectangles as masks; the third has no object."""
    sizes = [(40 + 4 * i, 60 + 2 * i) for i in range(NUM)]
    counts = [0 if i == 2 else 1 + i % 3 for i in range(NUM)]
    boxes, texts = [], []
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate(sizes):
        picture(width, height, seed=i).save(tmp_path / f"{i}.png")
        for x, y in rng.integers(0, 20, (counts[i], 2)):
            mask = torch.zeros(1, height, width, dtype=torch.uint8)
            mask[0, y : y + 15, x : x + 12] = 1
            boxes.append((x, y, x + 12, y + 15))
            texts += encode_masks(mask)
    total = sum(counts)
    return Annotations(
        root=tmp_path, files=[f"{i}.png" for i in range(NUM)], image_ids=np.arange(NUM) + 100,
        sizes_hw=np.array(sizes, dtype=np.int32), offsets=np.concatenate([[0], np.cumsum(counts)]),
        boxes=np.array(boxes, dtype=np.float64), labels=np.arange(total) % 2, crowd=np.arange(total) % 5 == 4,
        area=np.full(total, 180.0), classes=("a", "b"), category_ids=(1, 2),
        segmentations=PackedStrings.pack(texts),
    )


class Maps:
    """A source of one's own: pictures, and a class for every pixel."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.annotations)

    def source(self, index: int) -> tuple[Tensor, Target]:
        image, target = self.annotations.without_masks().source(index)
        empty = replace(target, boxes=target.boxes[:0], labels=target.labels[:0], crowd=target.crowd[:0])
        return image, replace(empty, semantic=(image[0] > 127).to(torch.uint8))


TRANSFORM = train_transform(Input(48, 80, augment="detr"))


def digest(batch: Batch) -> tuple[tuple[int, str], ...]:
    found = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        height, width = target.size_hw
        digest = hashlib.sha256(image[:, :height, :width].contiguous().numpy().tobytes())
        for tensor in (target.boxes, target.labels, target.crowd, target.masks, target.semantic):
            if tensor is not None:
                assert tensor.shape[-2:] == (height, width) or tensor.ndim < 3
                digest.update(tensor.contiguous().numpy().tobytes())
        assert target.masks is None or len(target.masks) == len(target.labels)
        found.append((target.image_id, digest.hexdigest()))
    return tuple(found)


def steps(source: Annotations | Maps, **options: object) -> list[tuple[tuple[int, str], ...]]:
    settings = {"batch_size": 3, "seed": 5, "first_step": 0, "total_steps": 6} | options
    return [digest(batch) for batch in train_stream(source, TRANSFORM, **settings)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["masks", "semantic"])
def test_workers_and_restarts_change_nothing(annotations: Annotations, kind: str) -> None:
    source = annotations if kind == "masks" else Maps(annotations)
    whole = steps(source)
    assert steps(source, workers=2) == whole
    assert steps(source, workers=1, first_step=2, total_steps=4) == whole[2:4]
    halves = [steps(source, batch_size=4, rank=rank, world_size=2, workers=rank) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == steps(source, batch_size=4)
    dataset = DetectionDataset(source, TRANSFORM, seed=5)
    (first,) = train_stream(source, TRANSFORM, batch_size=7, seed=5, first_step=0, total_steps=1, workers=1)
    places = [i - 100 for i in first.image_ids]
    assert digest(collate([dataset[0, i] for i in places])) == digest(first)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_without_objects_has_empty_masks(annotations: Annotations, workers: int) -> None:
    stream = eval_stream(annotations.subset([2]), eval_transform(Input(32, 64)), batch_size=1, workers=workers)
    [batch] = stream
    [target] = batch.targets
    assert target.masks is not None
    assert target.masks.shape == (0, *target.size_hw)


def test_masks_are_not_read_unless_there_are_any(annotations: Annotations) -> None:
    bare = annotations.without_masks()
    assert bare.source(0)[1].masks is None
    [batch] = eval_stream(bare.subset([0, 1]), eval_transform(Input(32, 64)), batch_size=2)
    assert all(target.masks is None and target.semantic is None for target in batch.targets)
    assert bare.without_masks() is bare
    ids = [[i for i, _ in step] for step in steps(annotations)]
    assert ids == [[i for i, _ in step] for step in steps(bare)]


def test_subset_and_digest(annotations: Annotations) -> None:
    assert annotations.segmentations is not None
    copy = pickle.loads(pickle.dumps(annotations))  # what a spawned worker gets
    assert copy.segmentations == annotations.segmentations
    assert copy.fingerprint() == annotations.fingerprint()
    part = annotations.subset([5, 1])
    for new, old in enumerate([5, 1]):
        ours, theirs = part.source(new)[1].masks, annotations.source(old)[1].masks
        assert ours is not None and theirs is not None
        assert torch.equal(ours, theirs)
    assert annotations.fingerprint() != annotations.without_masks().fingerprint()
    other = [annotations.segmentations[1], annotations.segmentations[0], *annotations.segmentations[2:]]
    changed = replace(annotations, segmentations=PackedStrings.pack(other))
    assert changed.fingerprint() != annotations.fingerprint()
    with pytest.raises(ValueError, match="expected segmentations of"):
        replace(annotations, segmentations=PackedStrings.pack(other[:-1]))


def test_run_lengths_both_ways() -> None:
    torch.manual_seed(3)
    masks = (torch.rand(5, 13, 7) > 0.6).to(torch.uint8)
    masks[1], masks[2] = 0, 1
    texts = encode_masks(masks)
    assert torch.equal(decode_masks(texts, (13, 7)), masks)
    assert torch.equal(decode_masks([texts[0], "", texts[3]], (13, 7)), masks[[0, 1, 3]])
    assert decode_masks([], (13, 7)).shape == (0, 13, 7)
    # By hand: 2 x 3 pixels down the columns, 0 1 | 1 0 | 0 0 -> runs 1 2 3, each below 16 as one letter from "0" on.
    assert encode_masks(torch.tensor([[[0, 1, 0], [1, 0, 0]]], dtype=torch.uint8)) == ["123"]
