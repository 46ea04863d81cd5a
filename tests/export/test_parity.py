"""What counts as the same list of detections, and suppression as an operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bifocals.export import Difference, Tolerance, compare, cpu_name, latency_ms
from bifocals.export.class_nms import class_nms, translations
from bifocals.predict import Postprocess
from bifocals.structures import Detections

TOLERANCE = Tolerance(box=0.05, score=1e-4)


def rows(*table: tuple[float, float, int]) -> Detections:
    """Boxes of 10x10 at (x, 0): rows of x, score, label."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in table]).reshape(-1, 4)
    return Detections(boxes, torch.tensor([score for _, score, _ in table]),
                      torch.tensor([label for _, _, label in table], dtype=torch.int64))


def difference(a: Detections, b: Detections, limit: int = 100) -> Difference:
    return compare([a], [b], Postprocess(0.05, 1000, limit), TOLERANCE)


FIRST = rows((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 0))


def test_equal_lists_are_equal() -> None:
    assert difference(FIRST, FIRST) == Difference(0, 0, 0, 3)
    assert difference(rows(), rows()) == Difference(0, 0, 0, 0)


def test_the_order_of_nearly_equal_scores_does_not_matter() -> None:
    a, b = rows((0, 0.80001, 0), (20, 0.8, 0)), rows((20, 0.80002, 0), (0, 0.8, 0))
    assert difference(a, b).within(TOLERANCE)


def test_differences_are_reported_with_their_size() -> None:
    moved = rows((0.2, 0.9, 0), (20, 0.8, 1), (40, 0.7, 0))
    assert difference(FIRST, moved).box == pytest.approx(0.2)
    assert not difference(FIRST, moved).within(TOLERANCE)
    weaker = rows((0, 0.9, 0), (20, 0.7995, 1), (40, 0.7, 0))
    assert difference(FIRST, weaker).score == pytest.approx(5e-4, abs=1e-6)
    assert not difference(FIRST, weaker).within(TOLERANCE)


@pytest.mark.parametrize(
    "other",
    [
        rows((0, 0.9, 0), (20, 0.8, 1)),  # one is missing
        rows((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 0), (60, 0.6, 0)),  # one too many
        rows((0, 0.9, 0), (20, 0.8, 0), (40, 0.7, 0)),  # another class
        rows((0, 0.9, 0), (20, 0.8, 1), (80, 0.7, 0)),  # elsewhere
        rows(),
    ],
)
def test_what_has_no_partner_counts(other: Detections) -> None:
    assert difference(FIRST, other).unpaired > 0
    assert difference(other, FIRST).unpaired > 0


def test_rounding_may_decide_at_a_cut() -> None:
    # At the threshold, and at the end of a full list.
    assert difference(rows((0, 0.9, 0), (20, 0.05005, 0)), rows((0, 0.9, 0))).unpaired == 0
    a, b = rows((0, 0.9, 0), (20, 0.50001, 0)), rows((0, 0.9, 0), (40, 0.50000, 0))
    assert difference(a, b, limit=2).unpaired == 0
    assert difference(a, b, limit=3).unpaired == 2


def test_equal_boxes_are_paired_by_score() -> None:
    a = rows(*[(0, 0.5 - i * 3e-4, 0) for i in range(20)])
    b = rows(*[(0, 0.5 - i * 3e-4 + 1e-6, 0) for i in range(20)])
    assert difference(a, b).score < 1e-5


def test_the_worse_of_two_differences() -> None:
    assert Difference(1, 0.1, 2, 10) | Difference(0.5, 0.2, 1, 5) == Difference(1, 0.2, 3, 15)
    with pytest.raises(ValueError, match="expected box of at least 0, got -1"):
        Tolerance(box=-1)


def test_masks_are_compared_with_their_boxes() -> None:
    masks = torch.tensor([0.1, 0.5, 0.9])[:, None, None].expand(3, 2, 2)
    low = Detections(FIRST.boxes, FIRST.scores, FIRST.labels, masks)
    assert difference(low, low) == Difference(0, 0, 0, 3, 0.0)
    assert difference(FIRST, FIRST).mask is None
    other = Detections(low.boxes.flip(0), low.scores.flip(0), low.labels.flip(0), masks.flip(0) + 0.002)
    found = difference(low, other)
    assert found.mask == pytest.approx(0.002, abs=1e-6)
    assert not found.within(TOLERANCE)
    assert found.within(Tolerance(mask=0.003))
    assert (found | Difference(0, 0, 0, 0)).mask == found.mask


def drawn(images: int, candidates: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    corner = torch.randint(60, (images, candidates, 2)).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 40, (images, candidates, 2))], dim=2)
    scores = torch.randint(0, 30, (images, candidates)) / 30  # equal scores, and zeros that take no part
    return boxes, scores, torch.randint(classes, (images, candidates))


def plain(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Suppression written out for one image."""
    keep = np.zeros(len(scores), dtype=bool)
    chosen: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        mine = [j for j in chosen if labels[j] == labels[i]]
        if scores[i] <= 0 or len(mine) >= limit:
            continue
        low, high = np.maximum(boxes[i, :2], boxes[mine][:, :2]), np.minimum(boxes[i, 2:], boxes[mine][:, 2:])
        inside = np.clip(high - low, 0, None).prod(axis=1)
        areas = [(boxes[j, 2:] - boxes[j, :2]).prod() for j in mine]
        if all(inside / ((boxes[i, 2:] - boxes[i, :2]).prod() + areas - inside) <= iou):
            chosen.append(i)
            keep[i] = True
    return keep


class Suppress(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        return class_nms(boxes, scores, labels, 3, 0.55, 6)


def test_suppression_in_onnx_equals_suppression_in_torch(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    arguments = drawn(2, 40, 3)
    dynamic = ({0: batch}, {0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    made = torch.onnx.export(Suppress().eval(), arguments, dynamic_shapes=dynamic, opset_version=18, dynamo=True,
                             custom_translation_table=translations(), verbose=False,
                             input_names=["boxes", "scores", "labels"])
    made.save(tmp_path / "nms.onnx")  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(tmp_path / "nms.onnx", providers=["CPUExecutionProvider"])
    for images in (1, 2, 5):
        boxes, scores, labels = drawn(images, 40, 3)
        feed = {"boxes": boxes.numpy(), "scores": scores.numpy(), "labels": labels.numpy()}
        kept = session.run(None, feed)[0]
        eager = class_nms(boxes, scores, labels, 3, 0.55, 6)
        for i in range(images):
            expected = plain(feed["boxes"][i], feed["scores"][i], feed["labels"][i], 0.55, 6)
            assert 5 < expected.sum() <= 18
            assert (kept[i] == expected).all()
            assert (eager[i].numpy() == expected).all()


def test_latencies_take_turns() -> None:
    calls: list[str] = []
    times = latency_ms({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3, warm_up=1)
    assert calls == ["a", "b"] * 4
    assert set(times) == {"a", "b"}
    assert 0 <= times["a"]["p50"] <= times["a"]["p90"]
    assert "cores" in cpu_name()
    with pytest.raises(ValueError, match="got 0 and 3"):
        latency_ms({}, runs=0)
