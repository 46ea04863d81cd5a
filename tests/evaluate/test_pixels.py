"""A segmenter on a labeled set, in one process and in two."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from bifocals.evaluate import PixelEvaluation, boundary_iou, confusion_matrix, pixels
from tests.evaluate import striped_maps
from tests.evaluate.striped_maps import Seeing, Stripes, run


@pytest.fixture(scope="module")
def found() -> PixelEvaluation:
    return run(Stripes())


def expected(maps: Stripes) -> torch.Tensor:
    """Cells of stripes are seen as they are but for the few pixels where they pass into each other."""
    total = torch.zeros(4, 4, dtype=torch.int64)
    for i in range(len(maps)):
        image, target = maps.source(i)
        assert target.semantic is not None
        total += confusion_matrix(target.semantic, (image[0].float() / 120).round().to(torch.uint8), 4)
    return total


def test_the_counts_are_those_of_the_labels(found: PixelEvaluation) -> None:
    counts, known = found.confusion.counts, expected(Stripes())
    assert counts.sum(dim=1).tolist() == known.sum(dim=1).tolist()  # rows are truth: exact
    assert (counts - known).abs().sum() < 0.1 * known.sum()
    assert counts[1, 0] > 500  # what was labeled to be wrong
    assert found.score == found.confusion.miou < 0.95
    assert math.isnan(float(found.confusion.iou[3]))
    assert found.boundary is not None and 0 < found.boundary_score < found.score


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"batch_size": 5, "workers": 1}, {"boundary": None}])
def test_neither_batches_nor_workers_change_the_counts(found: PixelEvaluation, settings: dict[str, int]) -> None:
    other = run(Stripes(), **settings)
    assert torch.equal(other.confusion.counts, found.confusion.counts)
    if "boundary" in settings:
        assert other.boundary is None and math.isnan(other.boundary_score)
    else:
        torch.testing.assert_close(other.boundary, found.boundary, equal_nan=True, rtol=0, atol=0)


def test_several_looks_are_averaged(found: PixelEvaluation) -> None:
    many = run(Stripes(), scales=(1.0, 2.0), flip=True, batch_size=2)
    assert many.views == "2 scales (1, 2), mirrored too"
    assert found.views is None
    assert many.score > found.score  # twice as large, a stripe has two cells
    assert many.confusion.counts.sum() == found.confusion.counts.sum()
    windows = run(Stripes(), sliding=(32, 32))
    assert windows.views == "scale 1, windows of 32 x 32"
    assert windows.score == pytest.approx(found.score, abs=0.1)


def test_labels_are_never_resized(found: PixelEvaluation) -> None:
    """Pictures twice as large: every labeled pixel counts once, at its own place, and a stripe has two cells."""
    larger = run(Stripes(), transform=striped_maps.enlarged, batch_size=2)
    assert torch.equal(larger.confusion.counts.sum(dim=1), found.confusion.counts.sum(dim=1))
    assert larger.score > found.score


def test_the_record_is_json_and_the_table_is_short(found: PixelEvaluation) -> None:
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["mIoU"] == found.score and found.metric == "mIoU"
    assert record["classes"]["never"] == {"iou": None, "accuracy": None, "precision": None, "boundary_iou": None}
    assert record["classes"]["gray"]["iou"] == pytest.approx(float(found.confusion.iou[1]))
    assert torch.equal(torch.tensor(record["confusion"]), found.confusion.counts)
    assert record["images_per_second"] > 0 and record["p50_ms"] <= record["p90_ms"]
    assert "without reading images" in record["protocol"]
    lines = found.summary().splitlines()
    assert lines[0] == "5 images, output main"
    assert [line.split()[0] for line in lines[2:7]] == ["dark", "gray", "bright", "never", "mean"]
    assert lines[5].split()[1:4] == ["-", "-", "-"]
    assert lines[6].split()[1] == f"{found.score:.4f}"[1:]
    assert max(map(len, lines)) <= 96
    assert found.line().startswith(f"mIoU {found.score:.4f}".replace("0.", ".", 1))


def test_the_random_state_and_the_mode_of_the_network_are_left_alone() -> None:
    network = Seeing().train()
    before = torch.get_rng_state()
    striped_maps.evaluate_maps(network, Stripes(2), transform=striped_maps.untouched,
                               postprocess=striped_maps.PixelPostprocess(), output="main")
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


def test_a_single_image_has_no_rate() -> None:
    one = run(Stripes(1))
    assert math.isnan(one.images_per_second) and one.to_json()["p50_ms"] is None
    assert one.num_images == 1 and "images/s" not in one.summary()


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="each of the 48 x 64 pixels of image 100, got labels of"):
        run(Stripes(1), transform=striped_maps.narrowed)
    with pytest.raises(ValueError, match=r"for the output 'aux', got it for \['main'\]"):
        run(Stripes(1), output="aux")


@pytest.mark.parametrize("number", [5, 1])
def test_the_counts_of_ranks_add_up(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Each rank for itself in one process: what is handed to the sum over ranks adds up to the whole, exactly."""
    one = run(Stripes(number))
    parts: list[list[torch.Tensor]] = []
    monkeypatch.setattr(pixels, "world_size", lambda: 2)
    monkeypatch.setattr(pixels, "of_all_ranks", lambda laps: [laps])

    def sent(counts: torch.Tensor) -> torch.Tensor:
        assert counts.dtype == torch.int64
        parts[-1].append(counts)
        return counts if counts.numel() > 1 else torch.tensor([number])

    monkeypatch.setattr(pixels, "sum_over_ranks", sent)
    for rank in range(2):
        monkeypatch.setattr(pixels, "rank", lambda rank=rank: rank)
        parts.append([])
        run(Stripes(number))
    counts, outlines, seen = (a + b for a, b in zip(*parts, strict=True))
    assert torch.equal(counts, one.confusion.counts)
    torch.testing.assert_close(boundary_iou(outlines), one.boundary, equal_nan=True, rtol=0, atol=0)
    assert int(seen) == number


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """An odd number of images, and a rank without any: counts add up as whole numbers, and all ranks know all."""
    numbers = (5, 1)
    torch.multiprocessing.spawn(striped_maps.run_as_rank, (2, str(tmp_path), numbers), nprocs=2)  # type: ignore[no-untyped-call]
    for number, rank in [(number, rank) for number in numbers for rank in range(2)]:
        one = run(Stripes(number))
        record = torch.load(tmp_path / f"rank{rank}_{number}.pt", weights_only=True)
        assert torch.equal(record["counts"], one.confusion.counts)
        torch.testing.assert_close(record["boundary"], one.boundary, equal_nan=True, rtol=0, atol=0)
        assert record["images"] == number
