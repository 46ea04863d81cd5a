"""One ONNX graph computes what the network and `Postprocess` compute, and says so in a certificate, or is rejected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from bifocals.data import Annotations, Input
from bifocals.export import (
    NotExportable,
    OnnxDetector,
    ParityError,
    Tolerance,
    compare,
    export_onnx,
    fit,
    fit_batch,
    program,
)
from bifocals.networks import DenseDetector
from bifocals.predict import Postprocess, top_pairs
from bifocals.structures import DenseOutput
from tests.export.conftest import CLASSES, HW, Exported, pictures, tiny

SETTINGS: dict[str, Any] = {"input_hw": HW, "images": pictures(2), "classes": CLASSES, "runs": 1, "log": lambda _: None}


def agree(exported: Exported, size: int) -> int:
    """Compares a batch of `size` pictures with the eager network; the number of detections."""
    batch = fit_batch([pictures()[i % 4] for i in range(size)], HW)
    with torch.inference_mode():
        eager = exported.postprocess(exported.network(batch.images)[exported.output], batch.targets)
    difference = compare(eager, OnnxDetector(exported.path).run(batch), exported.postprocess, Tolerance(1e-3, 1e-5))
    assert difference.within(Tolerance(1e-3, 1e-5)), difference
    return difference.compared


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_batch_equals_the_eager_network(nms_free: Exported, with_nms: Exported, size: int) -> None:
    for exported in (nms_free, with_nms):
        assert agree(exported, size) > 40 * size


def test_only_an_output_that_needs_nms_has_it(nms_free: Exported, with_nms: Exported) -> None:
    graph = onnx.load(nms_free.path).graph
    assert "NonMaxSuppression" not in {node.op_type for node in graph.node}
    assert [i.name for i in graph.input] == ["images"]
    assert [i.name for i in onnx.load(with_nms.path).graph.input] == ["images", "size_hw"]
    assert with_nms.certificate.ops["NonMaxSuppression"] == 1
    # The suppression does something: without it the eager network finds more.
    batch = fit_batch(pictures(), HW)
    with torch.inference_mode():
        output = with_nms.network(batch.images)["one2many"]
    free = Postprocess(0.1, 100, 5000)(output, batch.targets)
    kept = Postprocess(0.1, 100, 5000, 0.6)(output, batch.targets)
    assert sum(map(len, kept)) < 0.8 * sum(map(len, free))


def test_the_file_stands_alone(nms_free: Exported, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.onnx"
    moved.write_bytes(nms_free.path.read_bytes())
    session = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"])
    images = session.get_inputs()[0]
    assert (images.type, images.shape[1:]) == ("tensor(uint8)", [3, *HW])
    assert isinstance(images.shape[0], str)
    assert [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()] == [
        ("boxes", "tensor(float)", [50, 4]), ("scores", "tensor(float)", [50]), ("labels", "tensor(int64)", [50]),
    ]
    boxes, scores, _ = session.run(None, {"images": np.zeros((2, 3, *HW), dtype=np.uint8)})
    assert boxes.shape == (2, 50, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((scores == 0) | (scores > 0.1)).all()
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["bifocals"])
    assert metadata["classes"] == list(CLASSES)
    assert (metadata["input_hw"], metadata["score_threshold"]) == (list(HW), 0.1)


def test_the_certificate(nms_free: Exported) -> None:
    record = json.loads((nms_free.path.parent / "certificate.json").read_text())
    assert record == json.loads(json.dumps(nms_free.certificate.to_json()))
    assert record["file"] == "model.onnx"
    assert record["sha256"] == hashlib.sha256(nms_free.path.read_bytes()).hexdigest()
    assert record["bytes"] == nms_free.path.stat().st_size
    assert list(record["parity"]) == ["batch 1", "batch 2", "batch 3"]
    for size, parity in enumerate(record["parity"].values(), start=1):
        assert parity["unpaired"] == 0
        assert 0 <= parity["box"] < 0.01
        assert 0 <= parity["score"] < 1e-5
        assert parity["compared"] == 4 * size * 50
    assert record["num_images"] == 4
    assert record["ap"] is None
    for name in ("onnxruntime", "eager"):
        assert 0 < record["latency_ms"][name]["p50"] <= record["latency_ms"][name]["p90"]
    assert "in turns after 3 to warm up" in record["latency_protocol"]
    assert record["versions"]["onnxruntime"] == onnxruntime.__version__
    assert record["ops"] == dict(sorted(record["ops"].items()))
    assert record["ops"]["TopK"] == 3  # two stages, and the order between them
    assert sorted(p.name for p in nms_free.path.parent.iterdir()) == ["certificate.json", "model.onnx"]
    assert "no NMS node" in nms_free.certificate.summary()


def test_the_network_is_left_alone() -> None:
    network = tiny().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    program.Program(network, "one2one", Postprocess()).eval()
    assert network.training
    assert network.outputs == ("one2one", "one2many")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_file_that_computes_something_else_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("an older file")
    (tmp_path / "certificate.json").write_text("{}")
    right = program._above
    monkeypatch.setattr(program, "_above", lambda score, threshold: right(score * 0.999, threshold))
    with pytest.raises(ParityError, match=r"batch 1 boxes differ by .* px, scores by 0.0009.* kept as model.onnx.rej"):
        export_onnx(tiny(), path, output="one2one", postprocess=Postprocess(0.1, 100, 50), **SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx.rejected"]


def test_ap_before_and_after_on_real_annotations_and_on_the_input_of_training(tmp_path: Path) -> None:
    network = tiny(qualities=("box", "cls"))  # an NMS-free output with a quality takes the general path
    images = pictures()
    postprocess = Postprocess(0.1, 20, 40)
    size = Input(short=48, long=96)
    boxes, labels, counts = [], [], []
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
        batch = fit_batch([image], HW, (48, 96))
        with torch.inference_mode():
            best = postprocess(network(batch.images)["one2one"], batch.targets)[0]
        boxes.append(best.boxes[:4].double() + 1)  # what the network finds is nearly right
        labels.append(best.labels[:4])
        counts.append(4)
    objects = torch.cat(boxes).numpy()
    annotations = Annotations(
        root=tmp_path, files=[f"{i}.png" for i in range(4)],  # type: ignore[arg-type]
        image_ids=np.arange(4), sizes_hw=np.array([image.shape[1:] for image in images], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]), boxes=objects, labels=torch.cat(labels).numpy(),
        crowd=np.zeros(16, dtype=bool), area=(objects[:, 2:] - objects[:, :2]).prod(axis=1), classes=CLASSES,
        category_ids=(1, 2, 3),
    )
    certificate = export_onnx(
        network, tmp_path / "model.onnx", output="one2one", postprocess=postprocess, input_hw=HW, classes=CLASSES,
        images=[tmp_path / "0.png", tmp_path / "1.png"], annotations=annotations, ap_images=3, input=size, runs=1,
        log=lambda _: None,
    )
    accuracy = certificate.accuracy
    assert accuracy is not None
    assert (accuracy.metric, accuracy.images) == ("AP", 3)
    ap = accuracy.values
    assert list(ap) == ["training_input", "before", "after"]
    assert ap["before"] == pytest.approx(ap["after"], abs=1e-3)
    assert ap["after"] is not None
    assert ap["after"] > 0.3
    assert ap["training_input"] is not None
    detector = OnnxDetector(tmp_path / "model.onnx")
    assert detector.metadata.resize == (48, 96)
    assert detector.fit([images[0]]).targets[0].size_hw == (48, 72)  # not the (64, 96) that would fit


def test_one_class_float_input_and_more_detections_asked_for_than_there_are(tmp_path: Path) -> None:
    network, postprocess = tiny(1), Postprocess(0.05, 1000, 1000)
    export_onnx(
        network, tmp_path / "model.onnx", output="one2one", postprocess=postprocess, input_dtype="float32",
        **{**SETTINGS, "classes": CLASSES[:1]},
    )
    exported = Exported(network, "one2one", postprocess, tmp_path / "model.onnx", None)  # type: ignore[arg-type]
    assert agree(exported, 2) > 20
    assert OnnxDetector(tmp_path / "model.onnx").session.get_inputs()[0].type == "tensor(float)"


@pytest.mark.parametrize(("priors", "classes", "k"), [(40, 6, 10), (40, 6, 100), (40, 6, 999), (40, 1, 7), (40, 1, 99)])
def test_the_graph_chooses_in_two_stages_what_the_eager_code_chooses(priors: int, classes: int, k: int) -> None:
    logits = torch.randn(2, priors, classes)
    for a, b in zip(program._top_pairs(logits, k), top_pairs(logits, k), strict=True):
        assert torch.equal(a, b)


class ReadsTheBatchSize(DenseDetector):
    def forward(self, images: Tensor, targets: object = None) -> dict[str, DenseOutput]:
        assert int(images.shape[0]) < 1000
        return super().forward(images)


def test_a_graph_for_one_batch_size_is_rejected(tmp_path: Path) -> None:
    network = tiny()
    network.__class__ = ReadsTheBatchSize
    with pytest.raises((ParityError, NotExportable)):
        export_onnx(network, tmp_path / "model.onnx", output="one2one", postprocess=Postprocess(), **SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_hw": (64, 100)}, r"multiples of 32, got \(64, 100\)"),
        ({"images": []}, "expected real images"),
        ({"images": [torch.zeros(3, 8, 8)]}, "got torch.float32"),
        ({"output": "best"}, r"got 'best'; the network has \['one2one', 'one2many'\]"),
        ({"input_dtype": "float16"}, "got 'float16'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    (tmp_path / "model.onnx").write_text("an older file")
    with pytest.raises(ValueError, match=words):
        export_onnx(tiny(), tmp_path / "model.onnx", **{"output": "one2one", "postprocess": Postprocess(), **SETTINGS,
                                                        **settings})
    assert (tmp_path / "model.onnx").read_text() == "an older file"


def test_pictures_of_any_size_in_their_own_pixels(nms_free: Exported) -> None:
    detector = OnnxDetector(nms_free.path, threads=1)
    assert detector.classes == CLASSES
    found = detector(pictures())
    assert detector([]) == []
    for image, detections in zip(pictures(), found, strict=True):
        alone = detector([image])[0]
        assert torch.equal(alone.labels, detections.labels)
        torch.testing.assert_close(alone.boxes, detections.boxes, atol=1e-2, rtol=0)
        height, width = image.shape[1:]
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert detections.boxes[:, 2].max() > 0.9 * width  # in pixels of the picture, not of the input


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "theirs.onnx")
    with pytest.raises(ValueError, match=r"theirs.onnx' without metadata 'bifocals'"):
        OnnxDetector(tmp_path / "theirs.onnx")


def test_a_picture_is_resized_as_in_training_and_padded_right_and_bottom() -> None:
    image = torch.full((3, 100, 200), 200, dtype=torch.uint8)

    def real(resize: tuple[int, int] | None, hw: tuple[int, int]) -> tuple[int, int]:
        canvas, size_hw = fit(image, hw, resize)
        assert canvas.shape == (3, *hw)
        inside: Tensor = canvas[:, : size_hw[0], : size_hw[1]]
        assert (inside == 200).all()
        assert canvas.sum() == inside.sum()
        return size_hw

    assert real(None, (128, 128)) == (64, 128)
    assert real(None, (320, 320)) == (160, 320)
    assert real((50, 80), (128, 128)) == (40, 80)
    assert real((120, 1000), (128, 128)) == (64, 128)  # too large for the input: smaller than in training
    assert real((100, 1000), (128, 256)) == (100, 200)
