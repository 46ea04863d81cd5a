"""Label maps at the original size, from one look, from several, and from windows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bifocals.predict import MapViews, PixelPostprocess, rescaled, segment
from bifocals.predict.map_views import starts, windowed
from bifocals.structures import Batch, Target


def target(size_hw: tuple[int, int], original_hw: tuple[int, int] | None = None) -> Target:
    none = torch.zeros(0)
    return Target(none.view(0, 4), none.long(), none.bool(), size_hw, original_hw or size_hw)


def brightness(batch: Batch) -> Tensor:
    """Two classes, dark and bright: logits of 8x8 cells, the way a network of stride 8 would say it."""
    cells = F.avg_pool2d(batch.images.float().mean(1, keepdim=True), 8)
    return torch.cat([127.5 - cells, cells - 127.5], dim=1) / 20


def scene(size_hw: tuple[int, int], canvas: tuple[int, int] = (64, 64), left: int = 24) -> Batch:
    """Dark to the left, bright from the column `left` on."""
    images = torch.zeros(1, 3, *canvas, dtype=torch.uint8)
    images[0, :, : size_hw[0], left : size_hw[1]] = 255
    return Batch(images, (target(size_hw),))


def test_a_map_has_the_original_size_and_no_padding():
    logits = torch.zeros(2, 3, 4, 8)
    logits[:, 1, :, 4:] = 1.0  # from the middle on
    logits[0, 2, 3] = 9.0  # padding of the first image
    small, large = PixelPostprocess()(logits, [target((24, 64), (48, 128)), target((32, 40), (30, 41))])
    assert (small.dtype, tuple(small.shape), tuple(large.shape)) == (torch.uint8, (48, 128), (30, 41))
    # The center of cell 2 is pixel 20 of 24, row 40 of 48: below it padding has a say, as it has in training.
    assert bool((small[:38, :55] == 0).all()) and bool((small[:38, 58:] == 1).all())
    assert small[40:].unique().tolist() == [1, 2]
    assert bool((large[:, :28] == 0).all()) and bool((large[:, 31:] == 1).all())


def test_enlarging_is_torch_s_bilinear():
    """At the same size once; else to the canvas, cut, and from there to the original, in float32."""
    logits = torch.randn(1, 5, 6, 9, dtype=torch.bfloat16)
    canvas = F.interpolate(logits.float(), (48, 72), mode="bilinear", align_corners=False)
    post = PixelPostprocess()
    torch.testing.assert_close(post.at_original(logits, 0, target((41, 70))), canvas[0, :, :41, :70])
    twice = F.interpolate(canvas[:, :, :41, :70], (82, 140), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(post.at_original(logits, 0, target((41, 70), (82, 140))), twice, rtol=1e-4, atol=1e-5)
    assert torch.equal(post(logits, [target((41, 70))])[0].long(), canvas[0, :, :41, :70].argmax(0))
    plain = PixelPostprocess(stride=1)(logits, [target((6, 9))])[0]
    assert torch.equal(plain.long(), logits[0].argmax(0))


def test_of_equal_logits_the_first_class_wins():
    assert PixelPostprocess()(torch.zeros(1, 4, 2, 2), [target((16, 16))])[0].unique().tolist() == [0]


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="images of at most 16 x 16 pixels, .* got 17 x 8"):
        PixelPostprocess()(torch.zeros(1, 4, 2, 2), [target((17, 8))])
    with pytest.raises(ValueError, match="got 2 targets for 1 images"):
        PixelPostprocess()(torch.zeros(1, 4, 2, 2), [target((8, 8))] * 2)
    with pytest.raises(ValueError, match="stride of at least 1 pixel"):
        PixelPostprocess(0)


def test_one_look_is_the_postprocess():
    batch = scene((60, 50))
    assert torch.equal(segment(brightness, batch, PixelPostprocess())[0],
                       PixelPostprocess()(brightness(batch), batch.targets)[0])


def test_looks_agree_on_a_plain_scene():
    """A step in brightness stays where it is from near and far, mirrored, and in windows, up to a few pixels."""
    batch = scene((60, 50), left=24)
    seen: list[tuple[int, ...]] = []

    def forward(given: Batch) -> Tensor:
        seen.append(tuple(given.images.shape))
        return brightness(given)

    plain = segment(brightness, batch, PixelPostprocess())[0]
    for views in (MapViews(flip=True), MapViews((0.5, 1.0, 2.0)), MapViews((1.0,), window_hw=(32, 32)),
                  MapViews((1.0, 2.0), True, (32, 64))):
        seen.clear()
        found = segment(forward, batch, PixelPostprocess(), views)[0]
        assert found.shape == (60, 50)
        assert (found != plain).float().mean() < 0.1, str(views)
        if views.window_hw:
            assert {shape[2:] for shape in seen} == {views.window_hw}
    assert seen[0] == (1, 3, 32, 64)


def test_mirrored_looks_cancel_what_is_one_sided():
    """A network that says bright to the left of the middle whatever it sees: with its mirror image it says nothing."""

    def one_sided(batch: Batch) -> Tensor:
        left = torch.linspace(3, -3, batch.images.shape[-1] // 8)  # of the canvas, which the image fills
        left = left.expand(len(batch.images), 1, batch.images.shape[-2] // 8, -1)
        return torch.cat([torch.zeros_like(left), left], dim=1)

    batch = scene((64, 64))
    alone = segment(one_sided, batch, PixelPostprocess())[0]
    assert alone.float().mean() == pytest.approx(0.5)
    look = PixelPostprocess().at_original(one_sided(batch), 0, batch.targets[0]).softmax(0)
    torch.testing.assert_close(look + look.flip(-1), torch.ones_like(look))


def test_an_image_is_resized_without_its_padding():
    batch = scene((60, 50), canvas=(64, 96))
    half = rescaled(batch, 0.5, 32)
    assert tuple(half.images.shape) == (1, 3, 32, 32)
    assert half.targets[0].size_hw == (30, 25) and half.targets[0].original_hw == (60, 50)
    assert bool((half.images[:, :, :30, 13:25] > 200).all()) and bool((half.images[:, :, :, 25:] == 0).all())


def test_windows_cover_the_canvas_and_are_averaged():
    for side, window in ((64, 64), (64, 96), (100, 32), (1024, 768), (65, 64)):
        places = starts(side, window)
        assert places[0] == 0 and places[-1] == max(0, side - window)
        assert all(0 < b - a <= window * 2 / 3 + 1 for a, b in pairwise(places))
    calls = iter(range(9))

    def counted(batch: Batch) -> Tensor:
        return torch.full((len(batch.images), 1, 4, 4), float(next(calls)))

    whole = windowed(counted, (32, 32), 8, 32)(Batch(torch.zeros(1, 3, 32, 64, dtype=torch.uint8), (target((32, 64)),)))
    assert whole.shape == (1, 1, 32, 64)
    # Windows start at 0, 16 and 32: 0 alone, the mean of 0 and 1, of 1 and 2, and 2 alone.
    assert whole[0, 0, 0, [0, 16, 32, 48]].tolist() == [0, 0.5, 1.5, 2]


def test_views_say_what_they_are():
    assert MapViews().single and not MapViews((1.0,), True).single
    assert str(MapViews((0.5, 1.0), True, (512, 512))) == "2 scales (0.5, 1), mirrored too, windows of 512 x 512"
    with pytest.raises(ValueError, match="at least one scale"):
        MapViews(())
    with pytest.raises(ValueError, match="that the network's 32 divides, got \\(40, 64\\)"):
        segment(brightness, scene((60, 50)), PixelPostprocess(), MapViews(window_hw=(40, 64)))
