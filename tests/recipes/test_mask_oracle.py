"""Mask R-CNN beside torchvision's: the same weights give the same boxes, masks and losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from bifocals.networks import Backbone
from bifocals.recipes import mask_rcnn
from bifocals.recipes.mask_rcnn import Masks
from bifocals.recipes.torchvision_weights import copy_torchvision
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.structures import Target
from bifocals.train import Source

SIZE = (128, 160)  # a multiple of 32: torchvision pads with the mean color, we with black
SAMPLES = 48


class Seeded:
    """A sampler of torchvision that draws after a seed."""

    def __init__(self, sampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def __call__(self, labels):
        torch.manual_seed(self.seed)
        return self.sampler(labels)


def freeze(module: torch.nn.Module) -> None:
    """Batch norms of random statistics that stay, as torchvision has them beside published weights."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features)
            for name_of, low, high in (("weight", 0.3, 0.7), ("bias", -0.1, 0.1), ("running_mean", -0.1, 0.1),
                                       ("running_var", 0.8, 1.2)):
                frozen.get_buffer(name_of).uniform_(low, high)
            setattr(module, name, frozen)
        else:
            freeze(child)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=128, max_size=160, box_score_thresh=0.05,
        rpn_batch_size_per_image=SAMPLES, box_batch_size_per_image=SAMPLES, rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=100, box_detections_per_img=24,
    )
    freeze(model)
    with torch.no_grad():  # as trained: objects that differ in score, boxes that move
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        cls = model.roi_heads.box_predictor.cls_score.weight
        cls.sub_(cls.mean(dim=1, keepdim=True)).mul_(20)  # all features are positive: no class wins everywhere
    model.transform.postprocess = lambda result, *_: result  # masks in the cells of their boxes
    return model


@pytest.fixture(scope="module")
def ours(theirs):
    experiment = mask_rcnn(
        Masks.torchvision(),
        replace(RPNHead.torchvision(), per_level=200, proposals=100, samples=SAMPLES),
        replace(RoIHead.torchvision(), samples=SAMPLES),
        max_detections=24, backbone=Backbone("resnet50", "pytorch", weights="none"),
    )
    network = experiment.network(3)
    said = copy_torchvision(network, Source(theirs.state_dict(), "torchvision's own class"),
                            Backbone("resnet50", "pytorch"))
    assert "starts anew" not in said
    return experiment, network


@pytest.fixture(scope="module")
def scene() -> tuple[Tensor, list[Target]]:
    draw = torch.Generator().manual_seed(4)
    canvas, targets = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=draw), []
    for i, count in enumerate((3, 2)):
        low = torch.rand(count, 2, generator=draw) * 40
        boxes = torch.cat([low, low + 20 + torch.rand(count, 2, generator=draw) * 30], dim=1)
        masks = (torch.rand(count, *SIZE, generator=draw) > 0.4).to(torch.uint8)
        targets.append(Target(boxes, torch.tensor([2, 0, 1])[:count], torch.zeros(count, dtype=torch.bool),
                              SIZE, SIZE, i, masks=masks))
    return canvas, targets


def given(scene: tuple[Tensor, list[Target]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    canvas, targets = scene
    records = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks} for t in targets]
    return [image / 255 for image in canvas], records


def test_the_same_detections(theirs, ours, scene):
    experiment, network = ours
    images, _ = given(scene)
    canvas, targets = scene
    with torch.no_grad():
        expected = theirs.eval()(images)
        found = experiment.postprocess["roi"](network.eval()(canvas, targets)["roi"], targets)
    for mine, other in zip(found, expected, strict=True):
        sides = mine.boxes[:, 2:] - mine.boxes[:, :2]
        assert sides.amin() > 0.01  # torchvision leaves slivers out
        assert len(mine) == len(other["scores"]) > 20
        assert len(mine.labels.unique()) > 1
        torch.testing.assert_close(mine.scores, other["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.boxes, other["boxes"], rtol=0, atol=1e-4)
        assert torch.equal(mine.labels, other["labels"] - 1)
        assert (other["masks"].amax() - other["masks"].amin()) > 0.1
        torch.testing.assert_close(mine.masks, other["masks"][:, 0], rtol=0, atol=1e-4)


def test_the_same_losses(theirs, ours, scene):
    experiment, network = ours
    images, records = given(scene)
    canvas, targets = scene
    theirs.rpn.fg_bg_sampler = Seeded(theirs.rpn.fg_bg_sampler, 1)
    theirs.roi_heads.fg_bg_sampler = Seeded(theirs.roi_heads.fg_bg_sampler, 2)
    expected = theirs.train()(images, records)
    torch.manual_seed(2)
    outputs = network.train()(canvas, targets)
    torch.manual_seed(1)
    found = experiment.objective()(outputs, targets).raw
    names = {"rpn/cls": "loss_objectness", "rpn/box": "loss_rpn_box_reg", "roi/cls": "loss_classifier",
             "roi/box": "loss_box_reg", "roi/mask": "loss_mask"}
    for mine, other in names.items():
        assert float(found[mine].detach()) == pytest.approx(float(expected[other].detach()), rel=1e-5), mine
