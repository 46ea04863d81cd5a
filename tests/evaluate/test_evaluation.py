"""A network on an annotated set, in one process and in two."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing

from bifocals.data import Annotations
from bifocals.evaluate import Evaluation, evaluate
from bifocals.predict import Postprocess
from bifocals.structures import DenseOutput, Priors
from tests.evaluate import bright_scenes
from tests.evaluate.bright_scenes import Bright, draw_set, run


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    return draw_set(tmp_path_factory.mktemp("scenes"), 7)


@pytest.fixture(scope="module")
def free(annotations: Annotations) -> Evaluation:
    return run(annotations)


def test_an_output_without_nms_is_also_reported_with_it(free: Evaluation, annotations: Annotations) -> None:
    suppressed = run(annotations, "suppressed")
    assert suppressed.nms == 0.6
    assert suppressed.with_nms is None
    assert free.nms is None
    assert free.with_nms is not None
    assert free.with_nms.stats == pytest.approx(suppressed.stats, nan_ok=True, abs=0)
    assert free.ap == free.stats["AP"] < suppressed.ap  # each object is found twice
    assert 0.3 < free.duplicate_rate <= 0.5
    assert suppressed.duplicate_rate == 0


def test_nms_can_be_asked_for_and_left_out(free: Evaluation, annotations: Annotations) -> None:
    assert run(annotations, nms=0.6).ap == free.with_nms.ap  # type: ignore[union-attr]
    assert run(annotations, "suppressed", nms=None).ap == free.ap
    assert run(annotations, nms=0.9).ap == free.ap  # the two boxes of a cell overlap by .78


def test_the_record_is_json_and_the_table_is_short(free: Evaluation) -> None:
    record = json.loads(json.dumps(free.to_json(), allow_nan=False))
    assert record["AP"] == free.ap
    assert record["APm"] is None  # no object is that large
    assert record["per_class"]["never"] == {"AP": None, "AP50": None}
    assert record["with_nms"]["AP"] == free.with_nms.ap  # type: ignore[union-attr]
    assert record["compared_nms"] == 0.6
    assert record["duplicate_rate"] == free.duplicate_rate
    assert "without reading images" in record["protocol"]
    assert record["images_per_second"] > 0
    lines = free.summary().splitlines()
    assert lines[0] == "7 images, output free, NMS none"
    assert [line.split()[:2] for line in lines[2:4]] == [["AP", "without"], ["AP", "with"]]
    assert lines[2].split()[3] == f"{free.ap:.4f}"[1:]
    assert lines[4].startswith(f"duplicate rate {free.duplicate_rate:.4f}; ")
    assert [line.split()[0] for line in lines[-2:]] == ["bright", "never"]
    assert record["trust"] is None and record["other"] is None  # nobody asked: evaluation in training is not slower
    assert max(map(len, lines)) <= 96


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    return draw_set(tmp_path_factory.mktemp("many"), 30)


def test_trust_judges_both_outputs_after_one_pass(many: Annotations, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = Bright.forward

    def counted(self: Bright, images: torch.Tensor, targets: object = None) -> dict[str, DenseOutput]:
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Bright, "forward", counted)
    found = run(many, trust=True, batch_size=4)
    assert calls == [4] * 7 + [2]
    plain, other = run(many, batch_size=4), run(many, "suppressed", batch_size=4)
    assert found.stats == pytest.approx(plain.stats, nan_ok=True, abs=0)
    assert found.other is not None and found.suppressed is not None and found.trust is not None
    assert (found.other.output, found.other.nms) == ("suppressed", 0.6)
    assert found.other.result.stats == pytest.approx(other.stats, nan_ok=True, abs=0)
    assert found.trust.verdict == "not yet"  # each object is found twice
    assert found.trust.gain.value == pytest.approx(found.suppressed.result.ap - found.ap, abs=1e-12)
    assert found.trust.deficit == found.trust.gain  # here the other output is this one with its own NMS
    assert found.trust.duplicate_rate == found.duplicate_rate
    assert found.trust.images == len(set(np.repeat(np.arange(30), np.diff(many.offsets)).tolist()))
    assert list(found.rows()) == ["without NMS", "with NMS 0.6", "suppressed, NMS 0.6"]


def test_the_verdict_is_in_the_record_and_ends_the_table(many: Annotations) -> None:
    found = run(many, trust=True)
    assert found.trust is not None
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["trust"]["verdict"] == "not yet"
    assert record["other"]["AP"] == record["with_nms"]["AP"]
    assert record["with_nms"]["AP"] - record["AP"] == pytest.approx(record["trust"]["gain"]["value"])
    assert found.trust.sentence() in " ".join(found.summary().split())
    lines = found.summary().splitlines()
    assert lines[0] == "30 images, output free, NMS none"
    assert [line[: len("AP suppressed, NMS 0.6")].rstrip() for line in lines[2:5]] == [
        "AP without NMS", "AP with NMS 0.6", "AP suppressed, NMS 0.6",
    ]
    assert lines[-1].endswith(found.trust.sentence()[-20:])
    assert max(map(len, lines)) <= 96
    assert "network with its outputs free and suppressed" in found.protocol


def test_trust_is_for_outputs_without_nms(many: Annotations) -> None:
    for settings in ({"output": "suppressed"}, {"nms": 0.6}):
        found = run(many, trust=True, **settings)
        assert found.trust is None and found.other is None and found.suppressed is None
    alone = run(many, "suppressed", nms=None, trust=True)  # the network has no other output with NMS
    assert alone.trust is not None and alone.other is None and alone.trust.deficit is None


def test_the_number_of_detections_can_be_asked_for(many: Annotations) -> None:
    one = run(many, max_detections=1, trust=True)
    assert one.other is not None and one.suppressed is not None
    for _, detections in one.rows().values():
        assert {len(d) for d in detections.values()} == {1}
    assert one.to_json()["max_detections"] == one.max_detections == 1
    assert one.stats["AR100"] == one.stats["AR1"]
    most = run(many, max_detections=300)
    assert "AR300" in most.summary() and "AR100" not in most.summary()
    assert most.ap == run(many).ap  # no image has so many
    with pytest.raises(ValueError, match="max_detections of at least 1, got 0"):
        run(many, max_detections=0)


class Crowded(Bright):
    """Of 150 detections for a cell 149 are wrong, and the right one has the lowest score."""

    def forward(self, images: torch.Tensor, targets: object = None) -> dict[str, DenseOutput]:
        free = super().forward(images)["free"]
        points = free.priors.points[:32].repeat(150, 1)
        boxes = torch.cat([points + 40, points + 41], dim=1)
        boxes[-32:] = free.boxes[0, :32]
        logits = free.logits[:, :32].repeat(1, 150, 1) - torch.arange(150).repeat_interleave(32)[None, :, None] / 100
        boxes = boxes.expand(len(images), -1, -1)
        output = DenseOutput(logits, boxes, boxes, Priors(points, torch.full((4800,), 8.0), (4800,)))
        return {"free": output, "suppressed": output}


def test_more_than_a_hundred_detections_count_where_they_were_asked_for(annotations: Annotations) -> None:
    def ap(**settings: int) -> float:
        postprocess = {"free": Postprocess(0.0, 100, 100)}
        return evaluate(Crowded(), annotations, transform=bright_scenes.TRANSFORM, postprocess=postprocess,
                        output="free", **settings).ap  # type: ignore[arg-type]

    assert ap() == 0
    assert ap(max_detections=4800) > 0  # the right ones come last; more of each level stay, and AP looks at them


@pytest.mark.parametrize(("batch_size", "workers"), [(2, 0), (7, 0), (3, 1)])
def test_neither_batches_nor_workers_change_the_numbers(
    free: Evaluation, annotations: Annotations, batch_size: int, workers: int
) -> None:
    other = run(annotations, batch_size=batch_size, workers=workers)
    assert other.stats == pytest.approx(free.stats, nan_ok=True, abs=0)
    assert list(other.detections) == list(free.detections) == annotations.image_ids.tolist()


def test_the_random_state_and_the_mode_of_the_network_are_left_alone(annotations: Annotations) -> None:
    network = Bright().train()
    before = torch.get_rng_state()
    evaluate(network, annotations, transform=bright_scenes.TRANSFORM, postprocess=bright_scenes.POSTPROCESS,
             output="free")
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


def test_a_single_image_has_no_rate(annotations: Annotations) -> None:
    one = run(annotations.subset([0]))
    assert math.isnan(one.images_per_second)
    assert one.to_json()["images_per_second"] is None
    assert one.num_images == 1


def test_unknown_outputs_are_refused(annotations: Annotations) -> None:
    with pytest.raises(ValueError, match=r"for the output 'best', got it for \['free', 'suppressed'\]"):
        run(annotations, "best")


def test_two_processes_are_one(tmp_path: Path) -> None:
    """An odd number of images, and a rank without any: each image counts once, and all ranks know all."""
    numbers = (5, 1)
    torch.multiprocessing.spawn(bright_scenes.run_as_rank, (2, str(tmp_path), numbers), nprocs=2)  # type: ignore[no-untyped-call]
    for number, rank in [(number, rank) for number in numbers for rank in range(2)]:
        one = run(bright_scenes.draw_set_again(str(tmp_path), number), batch_size=1, trust=True)
        record = torch.load(tmp_path / f"rank{rank}_{number}.pt", weights_only=True)
        assert record["stats"] == pytest.approx(one.stats, nan_ok=True, abs=0)
        assert one.with_nms is not None
        assert record["with"] == pytest.approx(one.with_nms.stats, nan_ok=True, abs=0)
        assert record["rate"] == one.duplicate_rate
        assert one.trust is not None
        assert record["trust"] == one.trust.to_json()
        assert set(record["found"]) == set(one.detections)
        assert len(one.detections) == number
        for image_id, (boxes, scores, labels) in record["found"].items():
            mine = one.detections[image_id]
            assert torch.equal(boxes, mine.boxes)
            assert torch.equal(scores, mine.scores)
            assert torch.equal(labels, mine.labels)
