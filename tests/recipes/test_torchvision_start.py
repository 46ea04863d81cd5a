"""Files of torchvision's detectors as a start: names old and new, classes, norms, what does not fit.

That the copied weights compute the same is shown in test_torchvision_oracle.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from bifocals.networks import Backbone, Towers
from bifocals.recipes import double_head_rcnn, faster_rcnn, fcos, mask_rcnn, retinanet
from bifocals.recipes.double_head_rcnn import Convolutions
from bifocals.recipes.retinanet import RetinaHead
from bifocals.recipes.torchvision_weights import COCO_ROWS, WITHOUT_EPSILON, copy_torchvision, is_torchvision
from bifocals.recipes.two_stage import RoIHead, RPNHead
from bifocals.train import Experiment, Source

BODY = Backbone("resnet18", "pytorch", "none")
PLAIN = {"head": RetinaHead(scales=False), "towers": Towers(norm="none"), "backbone": BODY}


def body(name: str = "resnet18", **options) -> nn.Module:
    return resnet_fpn_backbone(backbone_name=name, weights=None, **options)


def numbered(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The state of a model with other numbers everywhere, variances positive; no time goes into its own."""
    draw = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in build().state_dict().items()}
    return {n: torch.rand(shape, generator=draw) + 0.1 for n, shape in shapes.items()}


def of_zeros(experiment: Experiment, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        network = experiment.network(num_classes)
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network


@pytest.fixture(scope="module")
def mask_file() -> dict[str, Tensor]:
    return numbered(lambda: detection.MaskRCNN(body(), 91))


@pytest.fixture(scope="module")
def retina_file() -> dict[str, Tensor]:
    extra = LastLevelP6P7(256, 256)
    return numbered(lambda: detection.RetinaNet(body(returned_layers=[2, 3, 4], extra_blocks=extra), 91))


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the published files have them."""
    found = {}
    for name, tensor in tensors.items():
        name = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", name)
        name = re.sub(r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", name)
        name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
        name = re.sub(r"_head\.conv\.(\d)\.0\.", lambda m: f"_head.conv.{2 * int(m[1])}.", name)
        found[name] = tensor
    return found


def copied(network: nn.Module, tensors: dict[str, Tensor], origin: str = "file.pth") -> tuple[dict[str, Tensor], str]:
    assert is_torchvision(tensors)
    said = copy_torchvision(network, Source(tensors, origin), BODY)
    return network.state_dict(), said


def test_mask_rcnn_of_coco_by_its_names(mask_file):
    preset = {"rpn": RPNHead.torchvision(), "roi": RoIHead.torchvision()}
    network = of_zeros(mask_rcnn(backbone=BODY, **preset), 80)
    own, said = copied(network, mask_file)
    assert "left as built: nothing" in said and "not the same there" not in said and "trained with" not in said
    assert "roi.cls: 80 classes" in said and "mask.cls: 80 classes" in said
    theirs = mask_file
    assert torch.equal(own["backbone.stages.3.1.bn2.bias"], theirs["backbone.body.layer3.1.bn2.bias"])
    assert torch.equal(own["neck.pyramid.layer_blocks.2.0.weight"], theirs["backbone.fpn.layer_blocks.2.0.weight"])
    assert torch.equal(own["rpn.box.bias"], theirs["rpn.head.bbox_pred.bias"])
    assert torch.equal(own["mask.layers.4.bias"], theirs["roi_heads.mask_head.2.0.bias"])
    assert torch.equal(own["mask.up.weight"], theirs["roi_heads.mask_predictor.conv5_mask.weight"])
    # The background is their first row and our last; COCO's ids have gaps: class 79, toothbrush, is row 90.
    cls, box = "roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(own["roi.cls.weight"][[0, 79, 80]], theirs[cls][[1, 90, 0]])
    assert torch.equal(own["roi.box.bias"].reshape(80, 4)[[0, 79]], theirs[box].reshape(91, 4)[[1, 90]])
    assert torch.equal(own["mask.cls.bias"][[0, 79]], theirs["roi_heads.mask_predictor.mask_fcn_logits.bias"][[1, 90]])


def test_the_rows_of_coco():
    names = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert len(COCO_ROWS) == 80 and [names[i] for i in COCO_ROWS[:3]] == ["person", "bicycle", "car"]
    assert COCO_ROWS[11] == 13 and names[13] == "stop sign"  # 12 is no class


@pytest.mark.parametrize("kind", ["mask", "retina"])
def test_published_files_have_older_names(kind: str, mask_file, retina_file):
    tensors = mask_file if kind == "mask" else retina_file
    experiment = mask_rcnn(backbone=BODY) if kind == "mask" else retinanet(**PLAIN)
    new, _ = copied(of_zeros(experiment, 80), tensors)
    old, said = copied(of_zeros(experiment, 80), old_names(tensors))
    assert "left as built: nothing" in said
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_retinanet_by_its_names(retina_file):
    own, said = copied(of_zeros(retinanet(**PLAIN), 80), retina_file)
    assert "one2many.cls: 80 classes" in said
    head = "head.classification_head.cls_logits.bias"
    mine = own["head.predictors.one2many.cls.bias"].reshape(9, 80)
    assert torch.equal(mine[:, [0, 79]], retina_file[head].reshape(9, 91)[:, [1, 90]])
    assert torch.equal(own["head.box_towers.shared.layers.6.weight"],
                       retina_file["head.regression_head.conv.3.0.weight"])
    assert torch.equal(own["neck.pyramid.extra_blocks.p7.bias"], retina_file["backbone.fpn.extra_blocks.p7.bias"])


def test_other_classes_start_anew(mask_file, retina_file):
    network = of_zeros(faster_rcnn(backbone=BODY), 7)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own, said = copied(network, mask_file)
    assert "roi.cls starts anew: the file has 90 classes" in said and "the network 7" in said
    assert "roi.cls (2)" in said and "which this network is not" in said
    assert all(torch.equal(own[n], before[n]) for n in own if n.startswith(("roi.cls", "roi.box")))
    assert torch.equal(own["roi.fc2.weight"], mask_file["roi_heads.box_head.fc7.weight"])
    dense = of_zeros(retinanet(**PLAIN), 7)
    own, said = copied(dense, retina_file)
    assert "one2many.cls starts anew" in said
    assert torch.equal(own["head.predictors.one2many.box.bias"], retina_file["head.regression_head.bbox_reg.bias"])


def test_norms_without_epsilon(mask_file):
    tensors = {n: t * 1e-4 if n.endswith("running_var") else t for n, t in mask_file.items()}  # it matters there
    network = of_zeros(faster_rcnn(backbone=BODY), 80).eval()
    name = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    assert name in WITHOUT_EPSILON
    assert "no epsilon" not in copied(network, tensors)[1]
    assert "no epsilon" in copied(network, tensors, f"some/where/{name}")[1]
    theirs = FrozenBatchNorm2d(64, eps=0)
    theirs.load_state_dict({n: tensors[f"backbone.body.bn1.{n}"] for n in theirs.state_dict()})
    x = torch.rand(1, 64, 3, 3)
    torch.testing.assert_close(network.backbone.stages[0][1](x), theirs(x))


def test_levels_are_matched_by_their_stride(mask_file, retina_file):
    """P3 is the second level of a two-stage detector and the first of a dense one."""
    own, _ = copied(of_zeros(fcos(backbone=BODY), 3), mask_file)
    assert torch.equal(own["neck.pyramid.inner_blocks.0.0.weight"], mask_file["backbone.fpn.inner_blocks.1.0.weight"])
    own, said = copied(of_zeros(faster_rcnn(backbone=BODY), 3), retina_file)
    assert torch.equal(own["neck.pyramid.layer_blocks.3.0.bias"], retina_file["backbone.fpn.layer_blocks.2.0.bias"])
    assert "neck 12 of 16" in said


def test_heads_of_another_kind_stay_as_they_are(mask_file, retina_file):
    network = of_zeros(fcos(backbone=BODY), 90)  # towers with norms, distances from points
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own, _ = copied(network, retina_file)
    assert all(torch.equal(own[n], before[n]) for n in own if n.startswith("head."))
    double = of_zeros(double_head_rcnn(Convolutions(1), backbone=BODY), 90)
    box = double.roi.box.weight.clone()
    own, _ = copied(double, mask_file)
    assert torch.equal(own["roi.box.weight"], box)  # it reads convolutions, theirs reads the layers
    assert torch.equal(own["roi.cls.weight"][90], mask_file["roi_heads.box_predictor.cls_score.weight"][0])
    _, said = copied(of_zeros(faster_rcnn(backbone=BODY, roi=RoIHead(width=64)), 90), mask_file)
    assert "roi.cls starts anew: the file has 90 classes with weights [1024] each, the network 90 with [64]" in said


def test_the_second_retinanet():

    def build() -> nn.Module:
        wide = body("resnet50", returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(2048, 256))
        head = detection.retinanet.RetinaNetHead(256, 9, 91, norm_layer=lambda c: nn.GroupNorm(32, c))
        return detection.RetinaNet(wide, 91, head=head)

    tensors = numbered(build)
    wide = Backbone("resnet50", "pytorch")
    network = of_zeros(retinanet(extra="c5", head=RetinaHead(scales=False), backbone=wide), 80)
    own, said = copied(network, tensors)
    assert "left as built: nothing" in said
    assert torch.equal(own["head.cls_towers.shared.layers.4.bias"], tensors["head.classification_head.conv.1.1.bias"])


def test_what_cannot_be_is_said(mask_file):
    network = of_zeros(faster_rcnn(backbone=BODY), 3)
    with pytest.raises(ValueError, match=r"expected a body of style 'pytorch' .*got 'caffe'; --backbone.style pytorch"):
        copy_torchvision(network, Source(mask_file, "file.pth"), Backbone())
    deeper = of_zeros(faster_rcnn(backbone=Backbone("resnet34", "pytorch")), 3)
    with pytest.raises(ValueError, match="expected the backbone of this network, got another one"):
        copy_torchvision(deeper, Source(mask_file, "file.pth"), BODY)
    v2 = mask_file | {"backbone.fpn.inner_blocks.0.1.weight": torch.ones(256)}
    with pytest.raises(ValueError, match="--init expected a file of fasterrcnn_resnet50_fpn, .*norms in its pyramid"):
        copy_torchvision(network, Source(v2, "v2.pth"), BODY)
    assert not is_torchvision(network.state_dict())


def test_a_recipe_starts_from_a_file(mask_file, tmp_path: Path):
    path = tmp_path / "mine.pth"
    torch.save(mask_file, path)
    experiment = faster_rcnn(backbone=BODY, init=str(path))
    network = experiment.network(90)
    assert experiment.start_once and "copied backbone" in experiment.start(network)
    assert torch.equal(network.rpn.cls.bias, mask_file["rpn.head.cls_logits.bias"])
    assert not any(p.requires_grad for p in network.backbone.stages[:2].parameters())
