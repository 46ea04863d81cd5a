"""What is seen, and in which order, depends on (seed, epoch, image) alone."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bifocals.data import (
    Annotations,
    DataError,
    DetectionDataset,
    Input,
    collate,
    eval_stream,
    eval_transform,
    train_stream,
    train_transform,
)
from bifocals.data.dataset import philox_order, sample_seed
from bifocals.structures import Batch
from tests.data.small_set import SmallSet, picture

NUM = 11


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    """Eleven pictures of different sizes; the fourth has no object."""
    sizes = [(40 + 4 * i, 60 + 2 * i) for i in range(NUM)]
    for i, (height, width) in enumerate(sizes):
        picture(width, height, seed=i).save(tmp_path / f"{i}.png")
    counts = [0 if i == 3 else 1 + i % 3 for i in range(NUM)]
    total = sum(counts)
    corner = np.random.default_rng(0).uniform(0, 20, (total, 2))
    return Annotations(
        root=tmp_path,
        files=[f"{i}.png" for i in range(NUM)],
        image_ids=np.arange(NUM, dtype=np.int64) + 100,
        sizes_hw=np.array(sizes, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate([corner, corner + 15], axis=1),
        labels=np.arange(total, dtype=np.int64) % 2,
        crowd=np.arange(total) % 5 == 4,
        area=np.full(total, 225.0),
        classes=("a", "b"),
        category_ids=(1, 2),
    )


TRANSFORM = train_transform(Input(48, 80, augment="detr", photometric=True))


def digest(batch: Batch) -> tuple[tuple[int, str], ...]:
    """Each image of a batch: its id and a hash of its pixels (without padding) and targets."""
    found = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        height, width = target.size_hw
        digest = hashlib.sha256(image[:, :height, :width].contiguous().numpy().tobytes())
        for tensor in (target.boxes, target.labels, target.crowd):
            digest.update(tensor.numpy().tobytes())
        found.append((target.image_id, digest.hexdigest()))
    return tuple(found)


def steps(annotations: Annotations, **options: object) -> list[tuple[tuple[int, str], ...]]:
    settings = {"batch_size": 4, "seed": 5, "first_step": 0, "total_steps": 7} | options
    return [digest(batch) for batch in train_stream(annotations, TRANSFORM, **settings)]  # type: ignore[arg-type]


def test_workers_world_size_and_restarts_change_nothing(annotations: Annotations) -> None:
    whole = steps(annotations)
    assert len(whole) == 7
    for workers in (1, 3):
        assert steps(annotations, workers=workers) == whole
    halves = [steps(annotations, rank=rank, world_size=2, workers=rank) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert steps(annotations, first_step=3, workers=1) == whole[3:]


def test_every_epoch_is_a_permutation_and_batches_cross_its_end(annotations: Annotations) -> None:
    ids = [image_id for batch in steps(annotations, total_steps=11) for image_id, _ in batch]
    epochs = [ids[start : start + NUM] for start in range(0, 44, NUM)]
    assert all(sorted(epoch) == sorted(annotations.image_ids.tolist()) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_draws_change_with_seed_and_epoch(annotations: Annotations) -> None:
    assert steps(annotations, seed=6) != steps(annotations)
    dataset = DetectionDataset(annotations, TRANSFORM, seed=5)
    (first, _), (again, _), (next_epoch, _) = dataset[0, 2], dataset[0, 2], dataset[1, 2]
    assert torch.equal(first, again)
    assert first.shape != next_epoch.shape or not torch.equal(first, next_epoch)


def test_order_is_pinned() -> None:
    """A resumed run must see the order of the release that began it: this must never change."""
    assert philox_order(0, 0, 8).tolist() == [7, 4, 2, 6, 5, 0, 1, 3]
    assert philox_order(2**63 + 1, 3, 8).tolist() == [0, 2, 6, 7, 4, 3, 1, 5]
    assert sample_seed(1, 2, 3) == 6209704051643215159
    assert sample_seed(-1, 0, 0) != sample_seed(0, 0, 0)
    assert len({sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(5)}) == 125


def test_global_generator_is_left_as_it_was(annotations: Annotations) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    steps(annotations, total_steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    steps(annotations, total_steps=2, workers=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_global_generator_is_left_also_where_a_transform_fails(annotations: Annotations) -> None:
    def failing(image: torch.Tensor, target: object) -> tuple[torch.Tensor, object]:
        torch.rand(3)
        raise RuntimeError("no")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        DetectionDataset(annotations, failing)[0, 0]  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_evaluation_sees_each_image_once(annotations: Annotations, world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        stream = eval_stream(annotations, eval_transform(Input(32, 64)), batch_size=3, rank=rank, world_size=world_size)
        batches = list(stream)
        assert len(batches) == len(stream)
        seen += [image_id for batch in batches for image_id in batch.image_ids]
    assert sorted(seen) == annotations.image_ids.tolist()


def test_evaluation_is_the_same_with_workers(annotations: Annotations) -> None:
    plain, parallel = (
        [digest(b) for b in eval_stream(annotations, eval_transform(Input(32, 64)), batch_size=4, workers=workers)]
        for workers in (0, 2)
    )
    assert plain == parallel


def test_spawned_workers(annotations: Annotations) -> None:
    assert steps(annotations, total_steps=2, workers=1, context="spawn") == steps(annotations, total_steps=2)


def test_collate_pads_right_and_bottom(annotations: Annotations) -> None:
    dataset = DetectionDataset(annotations, eval_transform(Input(48, 96)))
    samples = [dataset[0, i] for i in (0, 3, 10)]
    batch = collate(samples, divisor=32)
    assert batch.images.dtype is torch.uint8
    assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
    assert batch.images.is_contiguous()
    for (image, target), padded, kept in zip(samples, batch.images, batch.targets, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(padded[:, :height, :width], image)
        assert not padded[:, height:].any()
        assert not padded[:, :, width:].any()
        assert kept is target
    assert collate(samples[:1], divisor=1).images.shape[2:] == samples[0][0].shape[1:]
    (streamed,) = eval_stream(annotations.subset([0, 3, 10]), eval_transform(Input(48, 96)), batch_size=3)
    assert torch.equal(streamed.images, batch.images)
    for ours, theirs in zip(streamed.targets, batch.targets, strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)
        assert ours.boxes.dtype is torch.float32
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.crowd, theirs.crowd)
        assert (ours.size_hw, ours.original_hw, ours.image_id) == (theirs.size_hw, theirs.original_hw, theirs.image_id)


def test_boxes_follow_the_resize(annotations: Annotations) -> None:
    dataset = DetectionDataset(annotations, eval_transform(Input(48, 96)))
    for i in range(NUM):
        _, target = dataset[0, i]
        scale = torch.tensor(target.scale_xyxy)
        np.testing.assert_allclose((target.boxes / scale).numpy(), annotations.objects(i)[0], atol=1e-4)


def test_a_broken_file_in_a_worker_is_named(annotations: Annotations) -> None:
    annotations.image_path(4).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"4\.png: expected an image file, got 0 bytes") as caught:
            steps(annotations, workers=workers)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 5, "world_size": 2}, "a batch_size that 2 processes can share, got 5"),
        ({"batch_size": 0}, "got 0"),
        ({"rank": 2, "world_size": 2}, "a rank from 0 to 1, got 2"),
        ({"workers": -1}, "0 or more workers, got -1"),
    ],
)
def test_options_are_judged(annotations: Annotations, options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        steps(annotations, **options)


def test_no_images(annotations: Annotations) -> None:
    empty = annotations.subset([])
    assert list(eval_stream(empty, eval_transform(Input()), batch_size=2)) == []
    with pytest.raises(ValueError, match="0 images"):
        steps(empty)


def test_subset_and_pickle(annotations: Annotations) -> None:
    part = annotations.subset([10, 3, 0])
    assert part.image_ids.tolist() == [110, 103, 100]
    for new, old in enumerate([10, 3, 0]):
        for ours, theirs in zip(part.objects(new), annotations.objects(old), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert part.image_path(new) == annotations.image_path(old)
    copy = pickle.loads(pickle.dumps(annotations))
    assert copy.fingerprint() == annotations.fingerprint()
    assert part.fingerprint() != annotations.fingerprint()


def test_annotations_are_judged(annotations: Annotations) -> None:
    with pytest.raises(ValueError, match=r"expected labels of \(\d+,\)"):
        replace(annotations, labels=annotations.labels[:-1])


def test_reading_does_not_grow(annotations: Annotations) -> None:
    """Nothing is kept per image that was looked at."""
    dataset = DetectionDataset(annotations, eval_transform(Input(32, 64)))
    for i in range(NUM):
        dataset[0, i]
    tracemalloc.start()
    try:
        for i in range(NUM):
            dataset[0, i]
        before = tracemalloc.get_traced_memory()[0]
        for epoch in range(3):
            for i in range(NUM):
                dataset[epoch, i]
        assert tracemalloc.get_traced_memory()[0] - before < 60_000  # one image and its target are 6,000
    finally:
        tracemalloc.stop()


def test_skipped_images_do_not_come_back(coco: SmallSet) -> None:
    coco.image(1).write_bytes(b"")
    annotations = coco.open(on_defect="skip")
    ids = {image_id for batch in steps(annotations, total_steps=4) for image_id, _ in batch}
    assert ids == {10, 12}
