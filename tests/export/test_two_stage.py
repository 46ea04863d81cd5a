"""A two-stage detector as one ONNX graph computes what the network and `RoIPostprocess` compute: proposals, pooling of
each region from its level, suppression by class, and masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bifocals.export import (
    Certificate,
    NotExportable,
    OnnxDetector,
    ParityError,
    RoIProgram,
    Tolerance,
    compare,
    export_onnx,
    fit_batch,
    roi_pool,
    roi_program,
)
from bifocals.export.graph import write_graph
from bifocals.networks import (
    FPN,
    RPN,
    BalancedPyramid,
    BoxHead,
    DoubleHead,
    MaskHead,
    ProposalChoice,
    RoIAlign,
    TwoStageDetector,
)
from bifocals.predict import RoIPostprocess
from tests.export.conftest import CLASSES, TinyBody, pictures

HW = (160, 224)
POSTPROCESS = RoIPostprocess(max_detections=30)
SETTINGS: dict[str, Any] = {
    "output": "roi", "postprocess": POSTPROCESS, "input_hw": HW, "classes": CLASSES, "log": lambda _: None,
}


def tiny(head: nn.Module | None = None, mask: bool = True) -> TwoStageDetector:
    """Drawn so that proposals have all sizes, and classes, boxes and masks vary from region to region."""
    torch.manual_seed(3)
    body, channels = TinyBody(), 16
    roi: Any = BoxHead(3, channels, width=32) if head is None else head
    network = TwoStageDetector(
        body, FPN(body.channels, channels, "pool"), RPN((4, 8, 16, 32, 64), channels), roi,
        choice=ProposalChoice(per_level=60, keep=50), assigner=lambda *_: pytest.fail("nothing is assigned here"),
        mask=MaskHead(3, channels, RoIAlign(size=5), 16, 1) if mask else None,
    )
    for layer, std in ((network.rpn.cls, 5.0), (network.rpn.box, 2.0), (roi.cls, 2.0), (roi.box, 1.0)):
        nn.init.normal_(layer.weight, std=std)
    with torch.no_grad():
        network.rpn.box.bias.view(-1, 4)[:, 2:] = 1.2  # larger than the anchors, so of several levels
    return network.eval()


def noise(number: int) -> list[Tensor]:
    """Pictures without two equal places: equal scores are chosen from by their order in ONNX, but not in torch."""
    return list(torch.randint(0, 256, (number, 3, *HW), dtype=torch.uint8))


@dataclass(frozen=True)
class Shipped:
    network: TwoStageDetector
    path: Path
    certificate: Certificate


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    network, path = tiny(), tmp_path_factory.mktemp("two") / "roi.onnx"
    return Shipped(network, path, export_onnx(network, path, images=pictures(3), runs=2, **SETTINGS))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_batch_equals_the_eager_network(shipped: Shipped, size: int) -> None:
    batch = fit_batch([pictures()[i % 4] for i in range(size)], HW)
    with torch.inference_mode():
        output = shipped.network(batch.images)["roi"]
        eager = POSTPROCESS(output, batch.targets)
    found = OnnxDetector(shipped.path).run(batch)
    tolerance = Tolerance(1e-2, 1e-4, mask=1e-3)
    difference = compare(eager, found, POSTPROCESS, tolerance)
    assert difference.within(tolerance), difference
    assert difference.compared > 15 * size
    assert difference.mask is not None
    # The case is one: regions of several levels, of several classes, and some that suppression took.
    assert len(torch.bincount(roi_pool.roi_level(output.rois, 4)).nonzero()) >= 2
    assert len(torch.cat([one.labels for one in eager]).unique()) >= 2
    free = replace(POSTPROCESS, nms=None, max_detections=1000)(replace(output, mask_of=None), batch.targets)
    kept = replace(POSTPROCESS, max_detections=1000)(replace(output, mask_of=None), batch.targets)
    assert sum(map(len, kept)) < 0.9 * sum(map(len, free))


def test_the_file_and_its_certificate(shipped: Shipped) -> None:
    session = onnxruntime.InferenceSession(shipped.path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images", "size_hw"]
    assert [(o.name, o.shape[1:]) for o in session.get_outputs()] == [
        ("boxes", [30, 4]), ("scores", [30]), ("labels", [30]), ("masks", [30, 10, 10]),
    ]
    ops = shipped.certificate.ops
    assert ops["NonMaxSuppression"] == 2  # of proposals, and of detections
    assert ops["RoiAlign"] == 4 + 4  # of each level, for boxes and masks
    for parity in shipped.certificate.parity.values():
        assert parity.unpaired == 0
        assert 0 < parity.mask < 1e-3
    assert "in a mask" in shipped.certificate.summary()
    assert shipped.network.assigner is not None  # left alone
    assert type(shipped.network.roi.pool) is RoIAlign


def test_pictures_of_any_size_get_boxes_and_masks_in_their_own_pixels(shipped: Shipped) -> None:
    detector = OnnxDetector(shipped.path, threads=1)
    for image, detections in zip(pictures(), detector(pictures()), strict=True):
        height, width = image.shape[1:]
        assert (detections.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert detections.boxes[:, 2].max() > 0.9 * width
        assert detections.masks is not None
        assert detections.masks.shape == (len(detections), 10, 10)
        assert 0 <= detections.masks.min() < detections.masks.max() <= 1


class Pools(nn.Module):
    """All that a head with two poolings asks for."""

    def __init__(self, *pools: RoIAlign) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def forward(self, a: Tensor, b: Tensor, c: Tensor, rois: Tensor, image: Tensor) -> Tensor:
        return torch.cat([pool([a, b, c], rois, image) for pool in self.pools], dim=1)


def drawn(images: int, regions: int, side: float) -> dict[str, Tensor]:
    levels = [torch.randn(images, 4, 256 // stride, 256 // stride) for stride in (4, 8, 16)]
    center, half = torch.rand(regions, 2) * 256, torch.rand(regions, 2) * side / 2
    rois = torch.cat([center - half, center + half], dim=1).clamp(0, 256)
    # Nothing, a border between levels, and a little less.
    rois[:3] = torch.tensor([[0, 0, 0, 0], [9, 9, 121, 121], [9, 9, 121, 120.9]])
    return {**dict(zip("abc", levels, strict=True)), "rois": rois, "image": torch.randint(images, (regions,))}


def test_pooling_in_onnx_equals_pooling_in_torch(tmp_path: Path) -> None:
    """Aligned or not, with few or adaptive samples, enlarged, with levels that have no region."""
    pools = RoIAlign((4, 8, 16), 3), RoIAlign((4, 8, 16), 3, 2, False), RoIAlign((4, 8, 16), 3, scale=1.3)
    plain = Pools(*pools)
    graph = roi_pool.with_graph_pools(plain).eval()
    example = drawn(2, 7, 200)
    made = torch.onnx.export(
        graph, (), kwargs=example, input_names=list(example), opset_version=18, dynamo=True, verbose=False,
        dynamic_shapes={name: {0: torch.export.Dim.DYNAMIC} for name in example},
        custom_translation_table=roi_pool.translations(),
    )
    made.save(tmp_path / "pools.onnx")  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(tmp_path / "pools.onnx", providers=["CPUExecutionProvider"])
    for images, regions, side in ((2, 60, 500), (1, 12, 20), (3, 40, 120)):
        given = drawn(images, regions, side)
        expected = plain(**given)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(graph(**given), expected, atol=1e-6, rtol=0)
    assert expected.abs().mean() > 0.1


@pytest.mark.parametrize(
    ("changes", "double"),
    [({"nms": None}, True), ({"score_threshold": 0.2}, False), ({"max_detections": 400}, False),
     ({"score_threshold": 0.0, "per_level": 40}, False)],
)
def test_the_program_chooses_what_the_eager_code_chooses(changes: dict[str, Any], double: bool) -> None:
    postprocess = replace(POSTPROCESS, **changes)
    network = tiny(DoubleHead(3, 16, RoIAlign(size=3), width=16, depth=1) if double else None, mask=False)
    batch = fit_batch(noise(2), HW)
    with torch.inference_mode():
        eager = postprocess(network(batch.images)["roi"], batch.targets)
        program = RoIProgram(network, postprocess).eval()
        sizes = torch.tensor([t.size_hw for t in batch.targets]) if program.takes_size else None
        boxes, scores, labels = program(batch.images, sizes)
    for i, wanted in enumerate(eager):
        real = scores[i] > 0
        assert int(real.sum()) == len(wanted) > 0
        torch.testing.assert_close(scores[i, real], wanted.scores, atol=1e-6, rtol=0)
        assert torch.equal(labels[i, real], wanted.labels)
        limit = torch.tensor(batch.targets[i].size_hw).flip(0).repeat(2)
        torch.testing.assert_close(torch.minimum(boxes[i, real], limit), wanted.boxes, atol=1e-3, rtol=0)


def test_masks_of_another_class_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = roi_program.RoIProgram.masks
    monkeypatch.setattr(roi_program.RoIProgram, "masks",
                        lambda self, levels, boxes, labels: right(self, levels, boxes, (labels + 1) % 3))
    with pytest.raises(ParityError, match=r"scores by \S+, masks by 0\.\d+, and 0 of .* 0.001 and 0 were"):
        export_onnx(tiny(), tmp_path / "roi.onnx", images=pictures(2), runs=1, **SETTINGS)


def test_a_balanced_pyramid_can_be_written(tmp_path: Path) -> None:
    """Libra R-CNN's part between pyramid and heads, whose attention must look like an attention with heads to ONNX."""
    network = tiny(mask=False)
    network.hook = BalancedPyramid(16, start="xavier").eval()
    certificate = export_onnx(network, tmp_path / "roi.onnx", images=pictures(2), runs=1, **SETTINGS)
    assert certificate.parity[1].within(certificate.tolerance)


class Values(nn.Module):
    """Something that ONNX has no operator for."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(images.float())


def test_what_onnx_cannot_express_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=r"^The network cannot be written as ONNX of opset 18: torch .*\.$"):
        write_graph(Values().eval(), tmp_path / "model.onnx", arguments={"images": torch.zeros(2, 4, 4)},
                    output_names=["values"], opset=18, metadata="{}")
    assert list(tmp_path.iterdir()) == []


def test_proposals_are_no_output_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the output 'roi' of a two-stage detector, got 'rpn'"):
        export_onnx(tiny(), tmp_path / "rpn.onnx", images=pictures(1), **{**SETTINGS, "output": "rpn"})
