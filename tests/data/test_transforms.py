from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from bifocals.data import Input, eval_transform, train_transform
from bifocals.data.transforms import RandomSizeCrop, ResizeShort, resized_hw
from bifocals.structures import Target


def sample(
    height: int = 120, width: int = 200, boxes: tuple[tuple[float, ...], ...] = ((20, 30, 80, 90),)
) -> tuple[Tensor, Target]:
    """A black picture whose boxes are white, so that boxes can be compared with pixels."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
    for x1, y1, x2, y2 in boxes:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    size = (height, width)
    target = Target(torch.tensor(boxes).reshape(-1, 4).float(), torch.arange(len(boxes)),
                    torch.zeros(len(boxes), dtype=torch.bool), size, size, 7)  # fmt: skip
    return image, target


def white_box(image: Tensor) -> list[float]:
    """The box of what is brighter than half, in fractions of a pixel at best."""
    bright = image[0] > 127
    rows, columns = torch.nonzero(bright.any(dim=1)).flatten(), torch.nonzero(bright.any(dim=0)).flatten()
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((480, 640), 240, 320, (240, 320)),
        ((640, 480), 240, 320, (320, 240)),
        ((400, 1000), 800, 1333, (533, 1333)),
        ((333, 500), 800, 1333, (800, 1201)),
        ((1, 1000), 800, 1333, (1, 1333)),
    ],
)
def test_resized_size(size: tuple[int, int], short: int, long: int, expected: tuple[int, int]) -> None:
    assert resized_hw(size, short, long) == expected


def test_eval_resizes_image_and_boxes_and_draws_nothing() -> None:
    image, target = sample()
    state = torch.get_rng_state()
    resized, moved = eval_transform(Input(60, 100))(image, target)
    assert torch.equal(state, torch.get_rng_state())
    assert type(resized) is Tensor
    assert resized.dtype is torch.uint8
    assert resized.shape == (3, 60, 100)
    assert moved.size_hw == (60, 100)
    assert moved.original_hw == (120, 200)
    assert moved.image_id == 7
    assert moved.boxes.tolist() == [[10, 15, 40, 45]]
    assert white_box(resized) == [10, 15, 40, 45]


def test_eval_keeps_boxes_below_a_pixel() -> None:
    image, target = sample(boxes=((20, 30, 21, 31),))
    assert len(eval_transform(Input(30, 50))(image, target)[1].boxes) == 1
    assert len(train_transform(Input(30, 50))(image, target)[1].boxes) == 0


def test_flip_mirrors_image_and_boxes() -> None:
    image, target = sample()
    transform = train_transform(Input(120, 200))
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        flipped, moved = transform(image, target)
        assert white_box(flipped) == [round(v) for v in moved.boxes[0].tolist()]
        seen.add(tuple(moved.boxes[0].tolist()))
    assert seen == {(20.0, 30.0, 80.0, 90.0), (120.0, 30.0, 180.0, 90.0)}


def test_none_does_not_flip() -> None:
    image, target = sample()
    transform = train_transform(Input(120, 200, augment="none"))
    for seed in range(8):
        torch.manual_seed(seed)
        assert transform(image, target)[1].boxes.tolist() == target.boxes.tolist()


def test_multiscale_draws_every_side() -> None:
    image, target = sample()
    transform = train_transform(Input(120, 400, multiscale=(60, 90, 120)))
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        seen.add(transform(image, target)[1].size_hw)
    assert seen == {(60, 100), (90, 150), (120, 200)}


def test_detr_sizes_and_crops() -> None:
    """DETR's ranges, at a fifth of its scale: sides 96 to 160, crops of 77 to 120 out of sides 80, 100, 120."""
    image, target = sample(480, 640, ((100, 100, 300, 300), (600, 440, 640, 480), (0, 0, 640, 480)))
    transform = train_transform(Input(160, 267, augment="detr"))
    shorts, ratios, dropped = set(), set(), 0
    for seed in range(150):
        torch.manual_seed(seed)
        out, moved = transform(image, target)
        assert out.shape[1:] == moved.size_hw
        height, width = moved.size_hw
        assert max(height, width) <= 267
        shorts.add(min(height, width))
        ratios.add(round(width / height, 2))
        boxes = moved.boxes
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert len(moved.labels) == len(moved.crowd) == len(boxes)
        assert 2 in moved.labels.tolist()  # the box of the whole picture cannot be cut away
        dropped += len(boxes) < 3
    assert shorts >= {round(s / 5) for s in (480, 640, 800)}
    assert 1.33 in ratios
    assert len(ratios) > 20
    assert 10 < dropped < 120


def op_names(transform: object) -> list[str]:
    """The operations of a training transform, in order, with their sizes."""

    def names(op: object) -> list[str]:
        inner = getattr(op, "transforms", None)
        if inner is not None:
            parts = [" ".join(names(part)) for part in inner]
            return [" or ".join(f"({part})" for part in parts)] if isinstance(op, v2.RandomChoice) else parts
        if isinstance(op, ResizeShort):
            return [f"short {op.shorts[0]}..{op.shorts[-1]} x{len(op.shorts)} long {op.long}"]
        return [f"crop {op.low}..{op.high}"] if isinstance(op, RandomSizeCrop) else [type(op).__name__]

    return names(transform.transform)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("input", "training", "evaluation"),
    [
        (Input(), ["RandomHorizontalFlip", "short 800..800 x1 long 1333"], "short 800..800 x1 long 1333"),
        (Input.detr(), ["RandomHorizontalFlip", "(short 480..800 x11 long 1333) or (short 400..600 x3 long None "
                        "crop 384..600 short 480..800 x11 long 1333)"], "short 800..800 x1 long 1333"),
        (Input.crowdhuman(), ["RandomHorizontalFlip", "(short 640..896 x9 long 1400) or (short 400..600 x3 long None "
                              "crop 384..600 short 640..896 x9 long 1400)"], "short 800..800 x1 long 1400"),
    ],
    ids=["1x", "3x", "crowdhuman"],
)  # fmt: skip
def test_the_augmentations_of_date(input: Input, training: list[str], evaluation: str) -> None:
    assert op_names(train_transform(input)) == training
    assert op_names(eval_transform(input)) == [evaluation]


def test_sides_of_crowdhuman_as_drawn() -> None:
    """Both ways of a picture of 1000x1500 give one of nine short sides, or less where the long one would pass 1400."""
    image, target = sample(1000, 1500, ((0, 0, 1500, 1000),))
    sizes = set()
    for seed in range(40):
        torch.manual_seed(seed)
        out, _ = train_transform(Input.crowdhuman())(image, target)
        assert max(out.shape[1:]) <= 1400
        if max(out.shape[1:]) < 1400:
            sizes.add(min(out.shape[1:]))
    assert sizes <= set(range(640, 897, 32))
    assert len(sizes) > 5


def test_crop_moves_boxes_with_the_pixels() -> None:
    image, target = sample(480, 640, ((200, 160, 440, 320),))
    transform = train_transform(Input(800, 1333, augment="detr"))
    checked = 0
    for seed in range(12):
        torch.manual_seed(seed)
        out, moved = transform(image, target)
        if len(moved.boxes):
            np.testing.assert_allclose(white_box(out), moved.boxes[0].numpy(), atol=1.5)
            checked += 1
    assert checked > 6


def test_crop_of_a_picture_smaller_than_the_crop() -> None:
    image, target = sample(20, 500, ((1, 1, 499, 19),))
    transform = train_transform(Input(160, 267, augment="detr"))
    for seed in range(20):
        torch.manual_seed(seed)
        out, moved = transform(image, target)
        assert out.shape[1:] == moved.size_hw
        assert len(moved.boxes) == 1


def test_photometric_changes_pixels_alone() -> None:
    image, target = sample()
    torch.manual_seed(3)
    out, moved = train_transform(Input(120, 200, augment="none", photometric=True))(image // 2 + 40, target)
    assert out.dtype is torch.uint8
    assert not torch.equal(out, image // 2 + 40)
    assert torch.equal(moved.boxes, target.boxes)


def test_picture_without_objects() -> None:
    image, target = sample(boxes=())
    target = replace(target, boxes=torch.zeros(0, 4))
    for augment in ("none", "flip", "detr"):
        _, moved = train_transform(Input(60, 100, augment=augment))(image, target)  # type: ignore[arg-type]
        assert moved.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"short": 0}, "1 <= short <= long, got short=0"),
        ({"short": 900, "long": 800}, "short=900 and long=800"),
        ({"augment": "mosaic"}, "got 'mosaic'"),
        ({"multiscale": (2000,)}, r"got \(2000,\)"),
    ],
)
def test_options_are_judged(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Input(**options)  # type: ignore[arg-type]
