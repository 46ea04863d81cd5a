"""Pixels and their labels move together in training; in evaluation labels stay as they are on disk."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bifocals.data import (
    Data,
    LabelMaps,
    MapInput,
    eval_stream,
    map_eval_transform,
    map_train_transform,
    open_maps,
    save_streets,
    train_stream,
)
from bifocals.data.dataset import seeded
from bifocals.data.map_transforms import resize_labels, scaled_hw
from bifocals.structures import Target


def target_of(semantic: Tensor | None, size_hw: tuple[int, int]) -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), size_hw,
                  size_hw, 7, semantic=semantic)  # fmt: skip


def painted(size_hw: tuple[int, int], axis: int = 1) -> tuple[Tensor, Target]:
    """Stripes of two classes, 7 to 13 pixels wide, and a picture that is black in one and white in the other."""
    widths = np.random.default_rng(0).integers(7, 14, 99)
    stripes = torch.from_numpy((np.arange(99) % 2).repeat(widths)[: size_hw[axis]].astype(np.uint8))
    labels = (stripes if axis else stripes[:, None]).expand(size_hw).contiguous()
    image = (labels * 255)[None].repeat(3, 1, 1)
    return image, target_of(labels, size_hw)


def semantic_of(target: Target) -> Tensor:
    assert target.semantic is not None
    return target.semantic


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(4, 2, [1, 3]), (2, 4, [0, 0, 1, 1]), (3, 2, [0, 2]), (4, 3, [0, 2, 3]), (5, 5, [0, 1, 2, 3, 4]), (5, 1, [2])],
)
def test_labels_are_taken_at_centers(old: int, new: int, expected: list[int]) -> None:
    """By hand: pixel i of the result has its center at (i + 1/2) old / new of the source."""
    labels = torch.arange(old, dtype=torch.uint8)
    assert resize_labels(labels[None], (1, new))[0].tolist() == expected
    assert resize_labels(labels[:, None], (new, 1))[:, 0].tolist() == expected


def test_a_window_is_a_part_of_the_whole() -> None:
    labels = torch.randint(0, 9, (13, 17), dtype=torch.uint8)
    whole = resize_labels(labels, (20, 11))
    assert torch.equal(resize_labels(labels, (20, 11), slice(3, 9), slice(2, 10)), whole[3:9, 2:10])


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_pixels_and_labels_move_together(scale: float, factor: float, axis: int) -> None:
    """A picture painted with its labels, resized bilinearly, is brighter than gray just where the label says so.

    Only pixels in whose blend both colors are level may differ; a shift of half a source pixel would show.
    """
    image, target = painted((97, 131), axis)
    transform = map_train_transform(MapInput(factor, (scale,), (64, 80)))
    for seed in range(4):
        torch.manual_seed(seed)
        moved, found = transform(image, target)
        labels = semantic_of(found)
        real = labels != 255
        assert moved.shape == (3, 64, 80) and labels.shape == (64, 80)
        assert (moved[:, ~real] == 0).all()
        level = (moved[0].int() - 128).abs() < 8
        differ = (moved[0] > 127) != (labels == 1)
        assert not (differ & real & ~level).any()
        assert (level & real).sum() <= 0.1 * real.sum()


def test_a_shift_of_half_a_pixel_would_show() -> None:
    """What the test above is worth: torch's corner rule fails it."""
    image, target = painted((97, 131))
    small = torch.nn.functional.interpolate(semantic_of(target)[None, None], size=(73, 98), mode="nearest")[0, 0]
    moved, _ = map_eval_transform(MapInput(0.75))(image, target)
    level = (moved[0].int() - 128).abs() < 8
    assert ((moved[0] > 127) != (small == 1))[~level].any()


def test_crop_larger_than_the_picture() -> None:
    image, target = painted((20, 30))
    image = image.clamp(min=9)
    moved, found = map_train_transform(MapInput(1.0, (1.5,), (50, 40), flip=False))(image, target)
    labels = semantic_of(found)
    # 30 x 45 after scaling: the window is 30 rows of it and 40 of its 45 columns.
    assert moved.shape == (3, 50, 40) and labels.shape == (50, 40) and found.size_hw == (50, 40)
    assert (labels[30:] == 255).all() and (labels[:30] != 255).all()
    assert (moved[:, 30:] == 0).all() and (moved[:, :30] >= 9).all()
    assert found.original_hw == (20, 30) and found.image_id == 7 and len(found.boxes) == 0


def test_padding_stays_black_and_ignored_under_light_and_flip() -> None:
    image, target = painted((20, 30))
    transform = map_train_transform(MapInput(1.0, (1.0,), (32, 64), photometric=True))
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        moved, found = transform(image.clamp(40, 200), target)
        labels = semantic_of(found)
        assert (moved[:, labels == 255] == 0).all() and (labels[:20, :30] != 255).all()
        seen.add((tuple(labels[0, :30].tolist()), moved[:, :20, :30].float().mean().item()))
    assert len({row for row, _ in seen}) == 2  # as it is, and mirrored
    assert len({light for _, light in seen}) >= 6


def test_the_draws() -> None:
    image, target = painted((40, 60))
    image[:] = 50
    image[0, 10:14, 20:24] = 255  # a mark to find the window by
    transform = map_train_transform(MapInput(1.0, (0.5, 1.0), (32, 48)))
    padded, places = 0, []
    for seed in range(300):
        torch.manual_seed(seed)
        moved, found = transform(image, target)
        if (semantic_of(found) == 255).any():
            padded += 1
            continue
        mark = (moved[0] > 200).nonzero()
        assert len(mark) == 16
        places.append((int(mark[0, 0]), int(mark[0, 1])))
    assert 120 < padded < 180  # half of them at half size, which is smaller than the window
    assert {row for row, _ in places} == set(range(2, 11))  # 40 - 32 + 1 windows
    # 60 - 48 + 1 windows, as they are and mirrored.
    assert {column for _, column in places} == {*range(8, 21), *range(24, 37)}
    assert 0.35 < sum(column >= 24 for _, column in places) / len(places) < 0.65


def test_draws_do_not_depend_on_the_size_of_the_picture() -> None:
    after = []
    for size_hw in ((40, 60), (20, 200)):
        image, target = painted(size_hw)
        torch.manual_seed(3)
        map_train_transform(MapInput(crop_hw=(64, 64)))(image, target)
        after.append(torch.rand(()).item())
    assert after[0] == after[1]


@pytest.mark.parametrize(("factor", "size_hw"), [(1.0, (37, 50)), (0.5, (19, 25)), (0.3, (11, 15)), (2.0, (74, 100))])
def test_evaluation_leaves_labels_alone(factor: float, size_hw: tuple[int, int]) -> None:
    image, target = painted((37, 50))
    state = torch.get_rng_state()
    moved, found = map_eval_transform(MapInput(factor))(image, target)
    assert torch.equal(torch.get_rng_state(), state)
    assert moved.shape[1:] == size_hw and found.size_hw == size_hw and moved.dtype == torch.uint8
    assert found.semantic is target.semantic and found.original_hw == (37, 50)
    if factor == 1.0:
        assert torch.equal(moved, image)
    assert found.scale_xyxy == pytest.approx([size_hw[1] / 50, size_hw[0] / 37] * 2)


def test_scaled_sizes() -> None:
    assert scaled_hw((361, 479), 0.5) == (181, 240)
    assert scaled_hw((1, 1), 0.1) == (1, 1)


def test_without_labels() -> None:
    image, target = painted((16, 16))
    bare = replace(target, semantic=None)
    assert map_eval_transform(MapInput())(image, bare)[1].semantic is None
    with pytest.raises(ValueError, match="expected a target with semantic labels, got image 7 without"):
        map_train_transform(MapInput())(image, bare)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"factor": 0.0}, "factor above 0 and at most 16, got 0.0"),
        ({"factor": float("nan")}, "factor above 0"),
        ({"scales": ()}, "one scale or more"),
        ({"scales": (1.0, -1.0)}, "one scale or more"),
        ({"crop_hw": (0, 4)}, "a height and a width"),
        ({"crop_hw": (4,)}, "a height and a width"),
    ],
)
def test_options_are_judged(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=f"MapInput expected .*{expected}"):
        MapInput(**options)  # type: ignore[arg-type]


def test_presets() -> None:
    assert MapInput().crop_hw == (768, 1536) and MapInput().scales == (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert MapInput.camvid(0.5) == MapInput(factor=0.5, crop_hw=(180, 240))
    assert (MapInput.voc().crop_hw, MapInput.coco_stuff().crop_hw) == ((512, 512), (640, 640))


# In a stream


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> LabelMaps:
    root = save_streets(tmp_path_factory.mktemp("streets"), train=5, val=0, hw=(48, 64))
    return open_maps(Data(str(root)), "train", None)


INPUT = MapInput(0.75, (0.75, 1.0, 1.5), (32, 40), photometric=True)


def batches(maps: LabelMaps, **options: object) -> list[tuple[Tensor, Tensor]]:
    given = {"batch_size": 2, "seed": 4, "first_step": 0, "total_steps": 6, **options}
    stream = train_stream(maps, map_train_transform(INPUT), **given)  # type: ignore[arg-type]
    return [(batch.images, torch.stack([semantic_of(t) for t in batch.targets])) for batch in stream]


def same(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b) for one, other in zip(left, right, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_batches_are_the_same_for_any_number_of_workers(streets: LabelMaps) -> None:
    alone = batches(streets)
    assert alone[0][0].shape == (2, 3, 32, 64) and alone[0][1].shape == (2, 32, 40)  # the canvas: 32 divides it
    torch.manual_seed(99)
    assert same(alone, batches(streets, workers=1))
    assert same(alone, batches(streets, workers=2, context="fork"))
    assert same(alone[3:], batches(streets, first_step=3))
    assert not same(alone, batches(streets, seed=5))
    for rank in range(2):
        part = batches(streets, rank=rank, world_size=2)
        assert same([(images[rank : rank + 1], labels[rank : rank + 1]) for images, labels in alone], part)


def test_a_sample_depends_on_seed_epoch_and_index_alone(streets: LabelMaps) -> None:
    transform = pickle.loads(pickle.dumps(map_train_transform(INPUT)))
    found = []
    for noise in range(2):
        torch.manual_seed(noise)
        with seeded(1, 2, 3):
            found.append(transform(*streets.source(3)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(semantic_of(found[0][1]), semantic_of(found[1][1]))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_streams_labels_as_they_are(streets: LabelMaps, workers: int) -> None:
    stream = eval_stream(streets, map_eval_transform(MapInput(0.5)), batch_size=2, workers=workers)
    targets = [target for batch in stream for target in batch.targets]
    assert [target.image_id for target in targets] == list(range(5))
    for i, target in enumerate(targets):
        assert target.size_hw == (24, 32) and target.original_hw == (48, 64)
        assert np.array_equal(semantic_of(target).numpy(), streets.labels(i))


def test_camvid_in_a_stream(shared: Path) -> None:
    root = shared / "data" / "camvid"
    if not root.is_dir():
        pytest.skip(f"no CamVid at {root}")
    maps = open_maps(Data(str(root)), "val", None).subset(range(8))
    stream = train_stream(maps, map_train_transform(MapInput.camvid(0.5)), batch_size=4, seed=0, first_step=0,
                          total_steps=2)  # fmt: skip
    for batch in stream:
        labels = torch.stack([semantic_of(target) for target in batch.targets])
        assert labels.shape == (4, 180, 240)
        assert set(labels.unique().tolist()) <= {*range(11), 255}
