"""A segmenter as one ONNX graph computes what network and `PixelPostprocess` compute, and says so, or is rejected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bifocals.data import LabelMaps, MapInput
from bifocals.evaluate import Confusion, confusion_matrix
from bifocals.export import (
    Certificate,
    OnnxDetector,
    OnnxSegmenter,
    ParityError,
    export_segmenter,
    fit_batch,
    pixel_program,
)
from bifocals.networks import BiSeNet
from bifocals.predict import PixelPostprocess
from tests.export.conftest import CLASSES, HW, Exported, TinyBody, pictures


def tiny() -> BiSeNet:
    """Both paths, with auxiliary heads, drawn so that the classes of a picture vary."""
    torch.manual_seed(5)
    network = BiSeNet(TinyBody(), len(CLASSES), width=16, head_width=16, aux_width=8)
    with torch.inference_mode():
        network.eval()
        logits = network(torch.stack([p[:, :60, :60] for p in pictures(3)]))["main"]
    predict: nn.Conv2d = network.head["main"].predict
    with torch.no_grad():  # no class wins everywhere
        scale = 2 / logits.std(dim=(0, 2, 3))
        predict.weight.mul_(scale[:, None, None, None])
        predict.bias.copy_(-logits.mean(dim=(0, 2, 3)) * scale)
    return network


@dataclass(frozen=True)
class Shipped:
    network: BiSeNet
    path: Path
    certificate: Certificate


@pytest.fixture(scope="session")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Shipped]:
    made: dict[bool, Shipped] = {}

    def shipped(argmax: bool) -> Shipped:
        if argmax not in made:
            path, network = tmp_path_factory.mktemp("segmenter") / "main.onnx", tiny()
            certificate = export_segmenter(
                network, path, input_hw=HW, images=pictures(), classes=CLASSES, argmax=argmax, runs=2,
                log=lambda line: None,
            )
            made[argmax] = Shipped(network, path, certificate)
        return made[argmax]

    return shipped


SETTINGS: dict[str, Any] = {"input_hw": HW, "images": pictures(2), "classes": CLASSES, "runs": 1, "log": lambda _: None}
Ship = Callable[[bool], Shipped]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_batch_equals_the_eager_network(ship: Ship, size: int) -> None:
    batch = fit_batch([pictures()[i % 4] for i in range(size)], HW)
    network = ship(False).network
    with torch.inference_mode():
        logits = F.interpolate(network(batch.images)["main"], scale_factor=8, mode="bilinear", align_corners=False)
    feed = {"images": batch.images.numpy()}
    session = onnxruntime.InferenceSession(ship(False).path, providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), logits, atol=1e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(ship(True).path, providers=["CPUExecutionProvider"])
    labels = torch.from_numpy(session.run(None, feed)[0])
    assert labels.dtype == torch.uint8
    assert (labels == logits.argmax(dim=1)).float().mean() > 0.9999
    assert len(labels.unique()) == 3


def test_the_files_stand_alone(ship: Ship, tmp_path: Path) -> None:
    for argmax, (name, kind, shape) in ((False, ("logits", "float", [3, *HW])), (True, ("labels", "uint8", [*HW]))):
        moved = tmp_path / f"{name}.onnx"
        moved.write_bytes(ship(argmax).path.read_bytes())
        session = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"])
        images, output = session.get_inputs()[0], session.get_outputs()[0]
        assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [3, *HW])
        assert isinstance(images.shape[0], str)
        assert (output.name, output.type, output.shape[1:]) == (name, f"tensor({kind})", shape)
        metadata = json.loads(session.get_modelmeta().custom_metadata_map["bifocals"])
        assert metadata["task"] == "segment"
        assert metadata["classes"] == list(CLASSES)
        # No weight of the auxiliary heads.
        stored = sum(int(np.prod(t.dims)) for t in onnx.load(moved).graph.initializer)
        network = ship(argmax).network
        aux = sum(p.numel() for n in ("aux16", "aux32") for p in network.head[n].parameters())
        assert stored <= sum(p.numel() for p in network.parameters()) - aux + 100


def test_the_certificate(ship: Ship) -> None:
    for argmax in (False, True):
        shipped = ship(argmax)
        record = json.loads((shipped.path.parent / "certificate.json").read_text())
        assert record == json.loads(json.dumps(shipped.certificate.to_json()))
        assert record["sha256"] == hashlib.sha256(shipped.path.read_bytes()).hexdigest()
        assert record["metadata"]["argmax"] is argmax
        assert record["ops"].get("ArgMax", 0) == argmax
        assert record["opset"] == 18
        sizes = fit_batch(pictures(), HW).targets
        pixels = sum(t.size_hw[0] * t.size_hw[1] for t in sizes)
        for size, parity in enumerate(record["parity"].values(), start=1):
            assert 0 < parity["logit"] < 1e-4
            assert (parity["other"], parity["other_share"]) == (0, 0.0)
            assert parity["compared"] + parity["ties"] == size * pixels  # padding is not counted
            assert parity["ties"] < 0.05 * size * pixels
        assert record["tolerance"] == {"logit": 1e-3, "miou": 1e-3}
        assert record["miou"] is None
        for name in ("onnxruntime", "eager"):
            assert 0 < record["latency_ms"][name]["p50"] <= record["latency_ms"][name]["p90"]
        assert record["versions"]["onnxruntime"] == onnxruntime.__version__
        assert ("argmax inside" if argmax else "logits of all classes") in shipped.certificate.summary()
        assert sorted(p.name for p in shipped.path.parent.iterdir()) == ["certificate.json", "main.onnx"]


def test_pictures_of_any_size_get_maps_of_their_own_size(ship: Ship) -> None:
    segmenter, postprocess = OnnxSegmenter(ship(False).path, threads=1), PixelPostprocess()
    assert segmenter.classes == CLASSES
    assert segmenter([]) == []
    batch = fit_batch(pictures(), HW)
    with torch.inference_mode():
        expected = postprocess(ship(False).network(batch.images)["main"], batch.targets)
    for image, alone, wanted, found in zip(
        pictures(), (segmenter([p])[0] for p in pictures()), expected, segmenter(pictures()), strict=True
    ):
        assert found.shape == image.shape[1:]
        assert torch.equal(found, alone)
        assert (found == wanted).float().mean() > 0.999
    coarse = OnnxSegmenter(ship(True).path)(pictures())
    for labels, finer in zip(coarse, expected, strict=True):
        assert labels.shape == finer.shape
        assert (labels == finer).float().mean() > 0.95  # chosen at the size of the input, so not quite the same


def test_labels_are_stretched_by_the_pixels_they_lie_in(ship: Ship) -> None:
    segmenter = OnnxSegmenter(ship(True).path)
    image = pictures(1)[0]  # 120 x 180 becomes 64 x 96: 15 pixels from 8
    batch = segmenter.fit([image])
    raw = segmenter.session.run(None, segmenter.feed(batch))[0][0]
    found = segmenter([image])[0].numpy()
    for y, x in ((0, 0), (119, 179), (60, 90), (7, 100)):
        assert found[y, x] == raw[int((y + 0.5) * 8 / 15), int((x + 0.5) * 8 / 15)]


def labeled(folder: Path, network: BiSeNet, factor: float) -> LabelMaps:
    """What the network finds, with a stripe of another class and one that does not count."""
    for i, image in enumerate(pictures()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        size_hw = tuple(max(1, int(side * factor + 0.5)) for side in image.shape[1:])
        batch = fit_batch([image], (-(-size_hw[0] // 32) * 32, -(-size_hw[1] // 32) * 32), (min(size_hw), max(size_hw)))
        with torch.no_grad():
            labels = PixelPostprocess()(network(batch.images)["main"], batch.targets)[0]
        labels[:10], labels[10:20] = 2, 255
        Image.fromarray(labels.numpy()).save(folder / f"{i}_labels.png")
    mapping = np.full(256, 255, dtype=np.uint8)
    mapping[:3] = range(3)
    return LabelMaps(
        root=folder, files=[f"{i}.png" for i in range(4)], label_files=[f"{i}_labels.png" for i in range(4)],
        image_ids=np.arange(4), sizes_hw=np.array([p.shape[1:] for p in pictures()], dtype=np.int32), classes=CLASSES,
        category_ids=(0, 1, 2), mapping=mapping,
    )


def test_miou_before_and_after_and_on_the_input_of_training(tmp_path: Path) -> None:
    network = tiny()
    maps = labeled(tmp_path, network, 0.5)
    certificate = export_segmenter(
        network, tmp_path / "main.onnx", input_hw=(128, 128), classes=CLASSES, argmax=True, input_dtype="float32",
        images=[tmp_path / "0.png", tmp_path / "1.png"], maps=maps, miou_images=3, input=MapInput(factor=0.5), runs=1,
        log=lambda _: None,
    )
    accuracy = certificate.accuracy
    assert accuracy is not None
    assert (accuracy.metric, accuracy.images) == ("mIoU", 3)
    assert list(accuracy.values) == ["training_input", "before", "after"]
    assert accuracy.values["before"] == pytest.approx(accuracy.values["after"], abs=1e-3)
    assert json.loads((tmp_path / "certificate.json").read_text())["miou"] == dict(accuracy.values)
    assert 0.6 < accuracy.values["after"] < 0.99  # type: ignore[operator]
    segmenter = OnnxSegmenter(tmp_path / "main.onnx")
    assert segmenter.session.get_inputs()[0].type == "tensor(float)"
    assert segmenter.metadata.factor == 0.5
    assert segmenter.fit([pictures(1)[0]]).targets[0].size_hw == (60, 90)  # not the (85, 128) that would fit
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for index in range(3):
        image, target = maps.source(index)
        counts += confusion_matrix(target.semantic, segmenter([image])[0], 3)  # type: ignore[arg-type]
    assert accuracy.values["after"] == Confusion(counts).miou


def test_a_file_that_computes_something_else_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "main.onnx"
    path.write_text("an older file")
    (tmp_path / "certificate.json").write_text("{}")
    right = F.interpolate

    def corners(x: Tensor, **options: Any) -> Tensor:
        return right(x, **{**options, "align_corners": True} if options.get("mode") == "bilinear" else options)

    monkeypatch.setattr(pixel_program, "F", type("Wrong", (), {"interpolate": staticmethod(corners)}))
    with pytest.raises(ParityError, match=r"batch 1 logits differ by \d.*, and \d+ of \d+ pixels .* main.onnx.rej"):
        export_segmenter(tiny(), path, **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["main.onnx.rejected"]


def test_an_argmax_before_the_enlargement_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the logits are right."""

    def early(self: Any, images: Tensor) -> Tensor:
        logits = self.network(images)["main"]
        large = F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)
        blocks = large[:, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return (blocks.argmax(dim=1) + 0 * large.argmax(dim=1)).to(torch.uint8)

    monkeypatch.setattr(pixel_program.PixelProgram, "forward", early)
    with pytest.raises(ParityError, match=r"of \d+ pixels have another label"):
        export_segmenter(tiny(), tmp_path / "main.onnx", argmax=True, **SETTINGS)


class Diverged(BiSeNet):
    def forward(self, images: Tensor, targets: object = None) -> dict[str, Tensor]:
        return {name: x / torch.zeros(()) * 0 for name, x in super().forward(images).items()}


def test_a_network_of_nan_is_rejected(tmp_path: Path) -> None:
    network = tiny()
    network.__class__ = Diverged
    with pytest.raises(ParityError, match="logits differ by nan"):
        export_segmenter(network, tmp_path / "main.onnx", **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["main.onnx.rejected"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_hw": (64, 100)}, r"export_segmenter expected input_hw in multiples of 32, got \(64, 100\)"),
        ({"images": []}, "expected real images"),
        ({"images": [torch.zeros(3, 8, 8)]}, "got torch.float32"),
        ({"output": "aux16"}, r"got 'aux16'; the network has \['main'\]"),
        ({"input_dtype": "float16"}, "got 'float16'"),
        ({"classes": [str(i) for i in range(255)]}, "1 to 254 classes, got 255"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    (tmp_path / "main.onnx").write_text("an older file")
    with pytest.raises(ValueError, match=words):
        export_segmenter(tiny(), tmp_path / "main.onnx", **{**SETTINGS, **settings})
    assert (tmp_path / "main.onnx").read_text() == "an older file"


def test_each_kind_of_file_is_run_by_its_own(ship: Ship, nms_free: Exported, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"OnnxDetector expected the file of a detector, .*main.onnx', of a segmenter; "
                                         r"OnnxSegmenter runs it"):
        OnnxDetector(ship(True).path)
    with pytest.raises(ValueError, match=r"OnnxSegmenter expected .* of a segmenter, .*model.onnx', of a detector"):
        OnnxSegmenter(nms_free.path)
    model = onnx.load(nms_free.path)
    entry = model.metadata_props[0]
    values = json.loads(entry.value)
    assert values.pop("task") == "detect"
    entry.value = json.dumps(values)  # as files of before segmenters were
    onnx.save(model, tmp_path / "older.onnx")
    assert OnnxDetector(tmp_path / "older.onnx").metadata == OnnxDetector(nms_free.path).metadata
    entry.value = json.dumps({**values, "task": "count"})
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(ValueError, match="of a model for 'count'; a later Bifocals runs it"):
        OnnxDetector(tmp_path / "newer.onnx")
