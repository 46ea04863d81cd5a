"""Anchors and deltas, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from bifocals.structures import Anchors, DeltaCoder, inside_canvas, make_points


def test_the_first_anchors_of_retinanet():
    priors = Anchors().at(make_points([(2, 3), (1, 1)], [8, 16]))
    assert priors.level_sizes == (54, 9) and len(priors) == 63 and len(Anchors()) == 9
    # Ratio .5 comes first, at the smallest scale: 32 * sqrt(2) wide and 32 / sqrt(2) high around (0, 0).
    torch.testing.assert_close(priors.boxes[0], torch.tensor([-22.627417, -11.313708, 22.627417, 11.313708]))
    torch.testing.assert_close(priors.boxes[3], torch.tensor([-16.0, -16, 16, 16]))  # ratio 1, scale 1
    assert priors.points[9].tolist() == [8.0, 0.0]  # the second cell of the row, at the cell's corner
    assert priors.strides[[0, 53, 54]].tolist() == [8.0, 8.0, 16.0]
    sides = priors.boxes[:, 2:] - priors.boxes[:, :2]
    torch.testing.assert_close(sides.prod(1)[:3], torch.tensor([32.0**2, 2 ** (2 / 3) * 32**2, 2 ** (4 / 3) * 32**2]))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[::3][:3], torch.tensor([0.5, 1, 2]))


def test_rounded_anchors_are_those_of_the_first_releases():
    priors = Anchors(offset=0.5, rounded=True).at(make_points([(1, 1)], [8]))
    # round(sqrt(64 / .5)) = 11 wide, round(5.5) = 6 high, times 4: 44x24 (not 45.25x22.63), around the cell's center.
    assert priors.boxes[0].tolist() == [4 - 22, 4 - 12, 4 + 22, 4 + 12]


def test_anchors_refuse_nonsense():
    with pytest.raises(ValueError, match=r"Anchors expected a positive base_scale.*got 4.0, 0"):
        Anchors(scales_per_octave=0)


def test_priors_beyond_the_canvas():
    priors = make_points([(4, 4)], [8])
    inside = inside_canvas(priors, (16, 24)).reshape(4, 4)
    assert inside.tolist() == [[True] * 3 + [False]] * 2 + [[False] * 4] * 2


def test_deltas_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 10]])
    # The center moves from (5, 10) to (15, 5): 1 width to the right, a quarter height up; twice as wide, half as high.
    expected = torch.tensor([[1.0, -0.25, math.log(2), -math.log(2)]])
    torch.testing.assert_close(DeltaCoder().encode(anchor, box), expected)
    coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(coder.encode(anchor, box), expected / torch.tensor([0.1, 0.1, 0.2, 0.2]))
    torch.testing.assert_close(coder.decode(anchor, coder.encode(anchor, box)), box)


def test_decoded_sides_have_a_limit():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    boxes = DeltaCoder().decode(anchor, torch.tensor([[0.0, 0, 50, -50]]))
    sides = boxes[0, 2:] - boxes[0, :2]
    torch.testing.assert_close(sides, torch.tensor([1000.0, 16 * 16 / 1000]))
    moved = DeltaCoder(center_limit=32.0).decode(anchor, torch.tensor([[10.0, -10, 0, 0]]))
    assert moved[0].tolist() == [32.0, -32.0, 48.0, -16.0]


def test_torchvisions_anchors():
    make = Anchors(rule="torchvision")
    priors = make.at(make_points([(3, 5), (2, 3)], [8, 16]))
    # Squares of 32, 40 (40.3) and 50 (50.8) pixels; 32 / sqrt(.5) = 45.25 wide, half of it rounds to 23.
    sides = priors.boxes[:9, 2:] - priors.boxes[:9, :2]
    assert sides.tolist() == [[46, 22], [56, 28], [70, 36], [32, 32], [40, 40], [50, 50], [22, 46], [28, 56], [36, 70]]
    # The second level has 2 x 3 points on a canvas of 24 x 40 pixels: 12 apart downward, 40 // 3 = 13 to the right.
    second = priors.points.split(priors.level_sizes)[1][::9].tolist()
    assert second == [[0, 0], [13, 0], [26, 0], [0, 12], [13, 12], [26, 12]]
    with pytest.raises(ValueError, match="rule 'torchvision' with offset 0 and not rounded"):
        Anchors(offset=0.5, rule="torchvision")


@pytest.mark.parametrize("canvas", [(256, 320), (96, 160), (800, 1088)])
def test_they_are_those_of_its_generator(canvas):
    strides = (8, 16, 32, 64, 128)
    sizes = [canvas]
    for _ in range(7):
        sizes.append(tuple(-(-s // 2) for s in sizes[-1]))
    sizes = sizes[3:]
    scales = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    theirs = AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, *canvas), [canvas])
    expected = theirs(images, [torch.zeros(1, 1, *s) for s in sizes])[0]
    assert torch.equal(Anchors(rule="torchvision").at(make_points(sizes, strides)).boxes, expected)
