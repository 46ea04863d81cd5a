"""Batches to detections: evaluation mode, no gradient, and the network as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bifocals.predict import Postprocess, detect, inference
from bifocals.structures import Batch, Target


def batch(ids: list[int]) -> Batch:
    """Black pictures with a white cell of 8x8 pixels: its column is the image id."""
    images = torch.zeros(len(ids), 3, 32, 64, dtype=torch.uint8)
    none = torch.zeros(0)
    for image, image_id in zip(images, ids, strict=True):
        image[:, 8:16, image_id * 8 : image_id * 8 + 8] = 255
    targets = [Target(none.reshape(0, 4), none.long(), none.bool(), (32, 64), (64, 128), i) for i in ids]
    return Batch(images, tuple(targets))


def test_each_image_gets_its_own_detections(brightest: nn.Module) -> None:
    found = list(detect(brightest, [batch([3, 1]), batch([5])], Postprocess(0.3), "one2one"))
    assert [image_id for image_id, _ in found] == [3, 1, 5]
    for image_id, detections in found:
        assert detections.boxes.tolist() == [[image_id * 16, 16, image_id * 16 + 16, 32]]  # twice as large on disk
        assert detections.labels.tolist() == [1]
        assert not detections.scores.requires_grad


def test_modes_come_back_as_they_were(brightest: nn.Module) -> None:
    brightest.train()
    brightest.still.eval()  # a module that is held still in training
    stream = detect(brightest, [batch([0]), batch([1])], Postprocess(), "one2one")
    next(stream)
    assert not brightest.training
    stream.close()  # also if the iteration is not finished
    assert brightest.training
    assert not brightest.still.training
    assert brightest.modes == [False]


def test_bfloat16_runs_under_autocast(brightest: nn.Module) -> None:
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        list(detect(brightest, [batch([2])], Postprocess(), "one2one", "cpu", precision))  # type: ignore[arg-type]
        assert brightest.dtypes[-1] == dtype


def test_unknown_names_are_refused(brightest: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"got 'one2many'; the network has \['one2one', 'other'\]"):
        list(detect(brightest, [batch([0])], Postprocess(), "one2many"))
    with pytest.raises(ValueError, match="got 'fp16'"), inference(brightest, "one2one", precision="fp16"):  # type: ignore[arg-type]
        pass
