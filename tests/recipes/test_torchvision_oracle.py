"""torchvision's Faster R-CNN and RetinaNet with random weights, and ours with the same: the same boxes and losses.

Nothing is downloaded. The weights go through `copy_torchvision`, which is what `--init` does with a file.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bifocals.networks import Backbone, Towers
from bifocals.networks.pixels import IMAGENET_MEAN
from bifocals.recipes import faster_rcnn, retinanet
from bifocals.recipes.retinanet import RetinaHead
from bifocals.recipes.torchvision_weights import copy_torchvision, is_torchvision
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.structures import Detections, Target
from bifocals.train import Experiment, Source

BODY = Backbone("resnet50", "pytorch", "none")
SMALL = Backbone("resnet18", "pytorch", "none")
SIZES = ((96, 128), (90, 160), (96, 160))
CANVAS = (96, 160)  # P6 has 2x3 points, 48 and 53 pixels apart in torchvision


def drawn(num_classes: int = 3, first_label: int = 0) -> tuple[list[Tensor], list[Target]]:
    """Pictures 0..255 and their objects: of the second two nearly coincide and one is tiny, the third has none."""
    draw = torch.Generator().manual_seed(4)
    boxes = [
        torch.tensor([[8.0, 10, 60, 70], [70, 30, 120, 90], [30, 40, 44, 52]]),
        torch.tensor([[20.0, 20, 70, 80], [22, 20, 72, 81], [1, 1, 6, 7], [90, 10, 160, 90]]),
        torch.zeros(0, 4),
    ]
    pictures, targets = [], []
    for size, box in zip(SIZES, boxes, strict=True):
        pictures.append(torch.rand(3, *size, generator=draw) * 255)
        labels = torch.randint(num_classes, (len(box),), generator=draw) + first_label
        targets.append(Target(box, labels, torch.zeros(len(box), dtype=torch.bool), size, size))
    return pictures, targets


def canvas(pictures: list[Tensor]) -> Tensor:
    """One batch; torchvision pads with what is 0 after normalization."""
    pixels = torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1).expand(len(pictures), -1, *CANVAS).clone()
    for place, picture in zip(pixels, pictures, strict=True):
        place[:, : picture.shape[1], : picture.shape[2]] = picture
    return pixels


def said_something(model: nn.Module, seed: int = 7) -> nn.Module:
    """Random weights under which activations neither vanish nor explode; and no resizing in evaluation."""
    draw = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)

    for name, module in model.named_modules():
        if name.startswith("backbone.body") and hasattr(module, "running_var"):
            fill(module.weight, 0.3, 0.6)
            fill(module.bias, -0.1, 0.1)
            fill(module.running_mean, -0.1, 0.1)
            fill(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            limit = (0.6 if "bbox" in name else 2.4) / module.weight[0].numel() ** 0.5
            fill(module.weight, -limit, limit)
            if module.bias is not None:
                fill(module.bias, -0.1, 0.1)
    model.transform.resize = lambda image, target: (image, target)
    return model


def ours(experiment: Experiment, model: nn.Module, num_classes: int) -> nn.Module:
    network = experiment.network(num_classes)
    assert is_torchvision(model.state_dict())
    said = copy_torchvision(network, Source(model.state_dict(), "drawn"), BODY)
    assert "left as built: nothing" in said, said
    return network


def losses_of(model: nn.Module, pictures: list[Tensor], targets: list[Target], first_label: int) -> dict[str, Tensor]:
    given = [{"boxes": t.boxes, "labels": t.labels + first_label} for t in targets]
    with torch.no_grad():
        return model.train()([p / 255 for p in pictures], given)


def assert_same(found: list[Detections], expected: list[dict[str, Tensor]], first_label: int) -> None:
    """The best of both; of nearly equal scores rounding decides which comes first.

    Ours drops boxes without area, which torchvision's RetinaNet shows.
    """
    assert min(len(d) for d in found) >= 5
    for mine, theirs in zip(found, expected, strict=True):
        real = (theirs["boxes"][:, 2:] > theirs["boxes"][:, :2]).all(dim=1)
        boxes, scores, labels = (theirs[key][real] for key in ("boxes", "scores", "labels"))
        torch.testing.assert_close(mine.scores, scores[: len(mine)], rtol=1e-4, atol=1e-5)
        apart = (mine.boxes[:, None] - boxes).abs().amax(dim=2)
        apart = apart.masked_fill(mine.labels[:, None] + first_label != labels, torch.inf)
        same = apart.argmin(dim=1)
        assert len(same.unique()) == len(mine)
        torch.testing.assert_close(mine.boxes, boxes[same], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.scores, scores[same], rtol=1e-4, atol=1e-5)


def seeded(sampler, seed: int):
    def sample(labels):
        torch.manual_seed(seed)
        return sampler(labels)

    return sample


@pytest.fixture(scope="module")
def faster() -> tuple[nn.Module, nn.Module, Experiment]:
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=5)
    model = said_something(FasterRCNN(
        body, 4, _skip_resize=True, rpn_batch_size_per_image=64, box_batch_size_per_image=32,
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=100, rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=60,
    ))
    rpn = replace(RPNHead.torchvision(), samples=64, train_per_level=200, train_proposals=100, per_level=100,
                  proposals=60)
    experiment = faster_rcnn(rpn, replace(RoIHead.torchvision(), samples=32), backbone=BODY)
    return model, ours(experiment, model, 3), experiment


def test_faster_rcnn_finds_the_same(faster):
    model, network, experiment = faster
    pictures, targets = drawn()
    with torch.no_grad():
        expected = model.eval()([p / 255 for p in pictures])
        output = network.eval()(canvas(pictures), targets)["roi"]
    found = experiment.postprocess["roi"](output, targets)
    assert [len(d) for d in found] == [len(d["boxes"]) for d in expected]
    assert_same(found, expected, first_label=1)


def test_faster_rcnn_learns_from_the_same(faster, monkeypatch):
    model, network, experiment = faster
    pictures, targets = drawn()
    # They sample anchors first, we regions: each sampler gets a seed of its own.
    monkeypatch.setattr(model.rpn, "fg_bg_sampler", seeded(model.rpn.fg_bg_sampler, 5))
    monkeypatch.setattr(model.roi_heads, "fg_bg_sampler", seeded(model.roi_heads.fg_bg_sampler, 6))
    expected = losses_of(model, pictures, targets, first_label=1)
    with torch.no_grad():
        torch.manual_seed(6)
        outputs = network.train()(canvas(pictures), targets)
        torch.manual_seed(5)
        losses = experiment.objective()(outputs, targets).raw
    names = {"rpn/cls": "loss_objectness", "rpn/box": "loss_rpn_box_reg", "roi/cls": "loss_classifier",
             "roi/box": "loss_box_reg"}
    for name, theirs in names.items():
        torch.testing.assert_close(losses[name], expected[theirs], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)


def test_each_fact_of_the_preset_matters(faster):
    """Without it the losses differ: else the comparison would say nothing about it."""
    _, network, experiment = faster
    pictures, targets = drawn()
    plain, regions = RPNHead(), RoIHead()
    with torch.no_grad():
        levels = network.train().neck(network.backbone(canvas(pictures)))
        rpn, roi = RPNHead.torchvision(), RoIHead.torchvision()
        for fact in ("anchors", "matching", "box_loss", "normalizer"):
            torch.manual_seed(5)
            changed = faster_rcnn(replace(rpn, **{fact: getattr(plain, fact)}), roi, backbone=BODY)
            network.rpn.anchors = changed.network(1).rpn.anchors
            losses = changed.objective().branches["rpn"](network.rpn(levels), targets)
            network.rpn.anchors = rpn.anchors
            torch.manual_seed(5)
            before = experiment.objective().branches["rpn"](network.rpn(levels), targets)
            assert any(abs(losses[n] / before[n] - 1) > 1e-5 for n in before), fact
        some, image = targets[1].boxes, torch.ones(4, dtype=torch.int64)
        expected = roi.pool()(levels, some, image)
        for fact in ("sampling_ratio", "aligned"):
            pooled = replace(roi, **{fact: getattr(regions, fact)}).pool()(levels, some, image)
            assert not torch.allclose(pooled, expected, rtol=1e-3), fact


@pytest.fixture(scope="module")
def retina() -> tuple[nn.Module, nn.Module, Experiment]:
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, returned_layers=[2, 3, 4],
                               extra_blocks=LastLevelP6P7(256, 256))
    model = said_something(RetinaNet(body, 4, _skip_resize=True, detections_per_img=10_000))
    experiment = retinanet(RetinaHead.torchvision(), backbone=SMALL, towers=Towers(norm="none"), max_detections=300)
    return model, ours(experiment, model, 4), experiment


def test_retinanet_finds_the_same(retina):
    model, network, experiment = retina
    pictures, targets = drawn(first_label=1)
    with torch.no_grad():
        expected = model.eval()([p / 255 for p in pictures])
        output = network.eval()(canvas(pictures), targets)["one2many"]
    assert_same(experiment.postprocess["one2many"](output, targets), expected, first_label=0)


def test_retinanet_learns_from_the_same(retina):
    model, network, experiment = retina
    pictures, targets = drawn(first_label=1)  # no object has torchvision's class 0
    expected = losses_of(model, pictures, targets, first_label=0)
    with torch.no_grad():
        losses = experiment.objective()(network.train()(canvas(pictures), targets), targets).raw
    torch.testing.assert_close(losses["one2many/cls"], expected["classification"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["one2many/box"], expected["bbox_regression"], rtol=1e-5, atol=1e-6)
