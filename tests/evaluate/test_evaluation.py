"""A network on an annotated set, in one process and in two."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from bifocals.data import Annotations
from bifocals.evaluate import Evaluation, evaluate
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
    assert [line.split()[0] for line in lines[5:]] == ["bright", "never"]


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
        one = run(bright_scenes.draw_set_again(str(tmp_path), number), batch_size=1)
        record = torch.load(tmp_path / f"rank{rank}_{number}.pt", weights_only=True)
        assert record["stats"] == pytest.approx(one.stats, nan_ok=True, abs=0)
        assert one.with_nms is not None
        assert record["with"] == pytest.approx(one.with_nms.stats, nan_ok=True, abs=0)
        assert record["rate"] == one.duplicate_rate
        assert set(record["found"]) == set(one.detections)
        assert len(one.detections) == number
        for image_id, (boxes, scores, labels) in record["found"].items():
            mine = one.detections[image_id]
            assert torch.equal(boxes, mine.boxes)
            assert torch.equal(scores, mine.scores)
            assert torch.equal(labels, mine.labels)
