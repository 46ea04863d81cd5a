"""The mask loss: a square by hand, torchvision's loss, images without objects."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection.roi_heads import maskrcnn_loss

from bifocals.losses import MaskLoss, mask_targets
from bifocals.structures import DeltaCoder, Matches, RoIOutput, Target


def square(x1: int, y1: int, x2: int, y2: int, size: int = 32) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.uint8)
    mask[y1:y2, x1:x2] = 1
    return mask


def target(*masks: torch.Tensor, labels: tuple[int, ...] = ()) -> Target:
    stacked = torch.stack(masks) if masks else torch.zeros(0, 32, 32, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 32, 32]]).repeat(len(masks), 1)
    return Target(boxes, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(masks), dtype=torch.bool), (32, 32),
                  (32, 32), masks=stacked)


def output(logits: torch.Tensor, rois: list[list[float]], image: list[int], gt: list[int]) -> RoIOutput:
    matches = Matches(torch.tensor(image, dtype=torch.int64), torch.arange(len(image)),
                      torch.tensor(gt, dtype=torch.int64))
    boxes = torch.tensor(rois, dtype=torch.float32).reshape(-1, 4)
    return RoIOutput(torch.zeros(len(boxes), 3), torch.zeros(len(boxes), 2, 4), boxes, matches.image, DeltaCoder(),
                     matches, logits)


def test_a_square_by_hand():
    # A RoI of 16 pixels with 4 cells of 4 pixels a side; the square covers 8 to 16 of both axes, its quarter.
    masks = torch.stack([square(0, 0, 2, 2), square(8, 8, 16, 16)])
    rois = torch.tensor([[0.0, 0, 16, 16], [0.0, 0, 16, 16], [16.0, 16, 64, 64]])
    found = mask_targets(masks, torch.tensor([1, 0, 1]), rois, size=4)
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert found[1].sum() == 0  # a quarter of one cell
    assert found[2].sum() == 0  # beyond the image there is no object
    share = mask_targets(masks, torch.tensor([0]), rois[:1], size=4, binary=False)
    assert 0 < float(share[0, 0, 0]) < 0.5 and share[0, 3, 3] == 0
    # A mask that ends in the middle of a cell: half of it is enough.
    half = mask_targets(square(0, 0, 6, 16)[None], torch.tensor([0]), rois[:1], size=4)
    assert half[0, 0].tolist() == [1, 1, 0, 0]


def test_the_loss_by_hand():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = torch.tensor([[2.0, -2], [-2, 2]])
    logits[0, 0] = 99.0  # of the other class: not looked at
    one = target(square(0, 0, 16, 16), labels=(1,))
    # Cells of 16 pixels: the first is all object.
    loss = MaskLoss()(output(logits, [[0, 0, 32, 32]], [0], [0]), [one])
    softplus = [math.log1p(math.exp(x)) for x in (-2, -2, -2, 2)]
    assert float(loss) == pytest.approx(sum(softplus) / 4)


def test_torchvisions_loss():
    draw = torch.Generator().manual_seed(0)
    targets = [target(square(0, 0, 9, 30), square(3, 5, 20, 21), labels=(1, 0)),
               target(square(9, 9, 31, 31), labels=(1,))]
    low = torch.rand(5, 2, generator=draw) * 15
    rois = torch.cat([low, low + 4 + torch.rand(5, 2, generator=draw) * 12], dim=1)
    image, gt = [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]  # in any order
    logits = torch.randn(5, 2, 28, 28, generator=draw)
    made = output(logits, rois.tolist(), image, gt)
    first, second = torch.tensor([1, 2, 4]), torch.tensor([0, 3])
    theirs = maskrcnn_loss(
        torch.cat([logits[first], logits[second]]), [rois[first], rois[second]], [t.masks for t in targets],
        [t.labels for t in targets], [torch.tensor([1, 0, 1]), torch.tensor([0, 0])],
    )
    torch.testing.assert_close(MaskLoss(aligned=False, binary=False)(made, targets), theirs)
    assert abs(float(MaskLoss()(made, targets) - theirs)) > 1e-4


def test_no_object_is_zero_with_a_graph():
    logits = torch.zeros(0, 2, 4, 4, requires_grad=True)
    loss = MaskLoss()(output(logits, [], [], []), [target(), target()])
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None


def test_a_batch_is_the_mean_of_its_rois():
    targets = [target(square(0, 0, 9, 30), labels=(0,)), target(), target(square(9, 9, 31, 31), labels=(1,))]
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 8, 8, generator=draw)
    whole = MaskLoss()(output(logits, [[0, 0, 20, 20], [5, 5, 30, 30]], [0, 2], [0, 0]), targets)
    parts = [MaskLoss()(output(logits[i : i + 1], [roi], [0], [0]), [targets[k]])
             for i, k, roi in ((0, 0, [0, 0, 20, 20]), (1, 2, [5, 5, 30, 30]))]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_what_is_missing_is_named():
    made = output(torch.zeros(1, 2, 4, 4), [[0, 0, 9, 9]], [0], [0])
    with pytest.raises(ValueError, match="without mask_logits or matches"):
        MaskLoss()(replace(made, mask_logits=None), [target(square(0, 0, 9, 9), labels=(0,))])
    with pytest.raises(ValueError, match="MaskLoss expected targets with masks, got image 7 without"):
        MaskLoss()(made, [replace(target(square(0, 0, 9, 9), labels=(0,)), masks=None, image_id=7)])
