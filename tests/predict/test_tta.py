"""Test-time augmentation: which sizes, that one view is a plain test, and that mirrors mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bifocals.data import Input, collate, eval_transform
from bifocals.predict import Postprocess, Views, detect_views, inference, merging, multi_scale, predict
from bifocals.predict.tta import mirrored
from bifocals.structures import Batch, Detections, Target

POSTPROCESS = Postprocess(0.3, nms=0.5)


def nothing(size_hw: tuple[int, int], image_id: int = 0) -> Target:
    none = torch.zeros(0)
    return Target(none.reshape(0, 4), none.long(), none.bool(), size_hw, size_hw, image_id)


def picture(*cells: tuple[int, int], hw: tuple[int, int] = (32, 64)) -> Tensor:
    """Black, with white squares of 8 pixels at these (x, y)."""
    image = torch.zeros(3, *hw, dtype=torch.uint8)
    for x, y in cells:
        image[:, y : y + 8, x : x + 8] = 255
    return image


def looked_at(views: Views, *images: Tensor) -> list[Batch]:
    return [collate([look(image, nothing(image.shape[-2:], i)) for i, image in enumerate(images)])
            for look in views.transforms]


def same(a: Detections, b: Detections) -> None:
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_the_six_sizes_of_the_release():
    six = ((480, 800), (640, 1067), (800, 1333), (960, 1600), (1120, 1867), (1280, 2133))
    assert multi_scale(Input()).sizes == six
    assert multi_scale(Input(320, 480)).sizes[0] == (192, 288)
    assert multi_scale(Input(), shorts=(400, 800)).sizes == ((400, 667), (800, 1333))
    assert str(multi_scale(Input(100, 200), (1.0, 2.0), flip=True)) == "2 scales (100, 200), mirrored too"
    # A run that draws sizes in training is looked at in these alone.
    assert multi_scale(Input(multiscale=(1000, 1333))).sizes == six


@pytest.mark.parametrize("factors", [(), (0.0,), (1.0, -1.0), (float("nan"),)])
def test_scales_are_positive(factors: tuple[float, ...]):
    with pytest.raises(ValueError, match="multi_scale expected at least one scale"):
        multi_scale(Input(), factors)


def test_one_view_is_the_plain_test(brightest: nn.Module):
    images = [picture((8, 8), (24, 16)), picture((40, 0), hw=(24, 64))]
    input = Input(32, 64)
    plain = collate([eval_transform(input)(image, nothing(image.shape[-2:], i)) for i, image in enumerate(images)])
    with inference(brightest, "one2one") as forward:
        expected = POSTPROCESS(forward(plain), plain.targets)
        found = detect_views(forward, POSTPROCESS, looked_at(multi_scale(input, (1.0,)), *images))
        free = detect_views(forward, merging(replace(POSTPROCESS, nms=None)),
                            looked_at(multi_scale(input, (1.0,)), *images))
    assert [len(d) for d in found] == [2, 1]
    for a, b, c in zip(expected, found, free, strict=True):
        same(a, b)
        same(a, c)  # of an NMS-free output: the plain test with NMS .6


def test_views_are_merged(brightest: nn.Module):
    # Both scales see the square, at twice the size as four cells of the network and one twice as sure.
    views = multi_scale(Input(32, 64), (1.0, 2.0))
    with inference(brightest, "one2one") as forward:
        (found,) = detect_views(forward, POSTPROCESS, looked_at(views, picture((8, 8))))
        (all_kept,) = detect_views(forward, replace(POSTPROCESS, nms=1.0), looked_at(views, picture((8, 8))))
        (best,) = detect_views(forward, Postprocess(0.3, max_detections=1, nms=0.2),
                               looked_at(views, picture((8, 8))))
    whole = [8.0, 8.0, 16.0, 16.0]
    assert whole in found.boxes.tolist() and whole in all_kept.boxes.tolist()
    quarters = [[8 + 4 * i, 8 + 4 * j, 12 + 4 * i, 12 + 4 * j] for j in range(2) for i in range(2)]
    assert all(quarter in all_kept.boxes.tolist() for quarter in quarters)  # in pixels of the original
    assert len(best) == 1


def test_a_mirrored_image_gives_mirrored_detections(brightest: nn.Module):
    # The second is smaller than the canvas: mirrored where it lies, its padding stays at the right.
    images = [picture((8, 8), (48, 16)), picture((40, 0), (0, 8), hw=(24, 52))]
    views = multi_scale(Input(32, 64), (1.0, 1.5), flip=True)
    with inference(brightest, "one2one") as forward:
        found = detect_views(forward, POSTPROCESS, looked_at(views, *images), views.flip)
        turned = detect_views(forward, POSTPROCESS, looked_at(views, *[i.flip(-1) for i in images]), views.flip)
    for a, b, image in zip(found, turned, images, strict=True):
        width = image.shape[-1]
        back = torch.stack([width - b.boxes[:, 2], b.boxes[:, 1], width - b.boxes[:, 0], b.boxes[:, 3]], dim=1)
        key = [sorted((*(round(v, 2) for v in box), round(s, 4)) for box, s in zip(d, scores, strict=True))
               for d, scores in ((a.boxes.tolist(), a.scores.tolist()), (back.tolist(), b.scores.tolist()))]
        assert key[0] == key[1] and len(a)


def test_mirrored_looks_find_the_same_place(brightest: nn.Module):
    image, views = picture((8, 8)), multi_scale(Input(32, 64), (1.0, 2.0), flip=True)
    with inference(brightest, "one2one") as forward:
        (once,) = detect_views(forward, POSTPROCESS, looked_at(views, image))
        (twice,) = detect_views(forward, POSTPROCESS, looked_at(views, image), flip=True)
    same(once, twice)  # this network is as sure of a mirrored square, so NMS takes the second look away


def test_mirrors_and_padding():
    batch = collate([(picture((0, 0), hw=(32, 40)), nothing((32, 40)))], 32)
    image = mirrored(batch).images[0]
    assert bool((image[:, :8, 32:40] == 255).all()) and int((image > 0).sum()) == 3 * 64
    assert image.shape[-1] == 64


def test_merging_needs_nms(brightest: nn.Module):
    assert merging(Postprocess()).nms == 0.6 and merging(Postprocess(nms=0.5)).nms == 0.5
    with inference(brightest, "one2one") as forward:
        with pytest.raises(ValueError, match="expected a postprocess with NMS"):
            detect_views(forward, Postprocess(), [])
        with pytest.raises(ValueError, match="at least one view"):
            detect_views(forward, POSTPROCESS, [])


def test_pictures_of_a_folder(brightest: nn.Module, tmp_path: Path):
    for name, image in (("a", picture((8, 8))), ("b", picture((40, 16))), ("c", picture((8, 0), hw=(48, 48)))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")

    def boxes(views: Views | None, batch_size: int) -> list:
        found = predict(brightest, [tmp_path], transform=eval_transform(Input(32, 64)), postprocess=POSTPROCESS,
                        output="one2one", classes=("a", "b"), views=views, batch_size=batch_size)
        return [p.detections.boxes.tolist() for p in found.pictures]

    assert boxes(None, 2) == boxes(multi_scale(Input(32, 64), (1.0,)), 2)
    six = multi_scale(Input(32, 64), flip=True)
    assert boxes(six, 1) == boxes(six, 2) != boxes(None, 2)
    assert all(boxes(six, 1))
