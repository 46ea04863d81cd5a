"""Drawn streets: the labels are exact, equal for equal seeds, and found in two layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bifocals.data import STREETS, Data, check_dataset, class_frequencies, draw_streets, open_maps, save_streets
from bifocals.data.camvid import CAMVID


def test_each_street_depends_on_seed_and_number_alone() -> None:
    first = list(draw_streets(3, (48, 64), seed=5))
    again = list(draw_streets(1, (48, 64), seed=5, first=2))
    assert np.array_equal(first[2].image, again[0].image) and np.array_equal(first[2].labels, again[0].labels)
    other = next(draw_streets(1, (48, 64), seed=6))
    assert not np.array_equal(first[0].image, other.image)
    assert not np.array_equal(first[0].labels, first[1].labels)


def test_every_class_occurs_and_little_does_not_count() -> None:
    streets = list(draw_streets(8, (60, 80)))
    counts = sum(np.bincount(street.labels.ravel(), minlength=256) for street in streets)
    shares = counts / counts.sum()
    assert (shares[: len(STREETS)] > 0.003).all()
    assert 0.005 < shares[255] < 0.08
    assert counts[len(STREETS) : 255].sum() == 0
    names = list(STREETS)
    assert shares[names.index("pole")] < 0.03 < shares[names.index("road")]


def test_pixels_look_like_their_class() -> None:
    """Labels fit the picture: the nearest of the classes' mean colors is right far above chance."""
    streets = list(draw_streets(6, (60, 80), seed=1))
    pixels = np.concatenate([street.image.reshape(-1, 3) for street in streets]).astype(np.float64)
    labels = np.concatenate([street.labels.ravel() for street in streets])
    means = np.array([pixels[labels == label].mean(axis=0) for label in range(len(STREETS))])
    nearest = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    # The window of a street lets the sky be known by its color, and of no other label than its own.
    right = [(nearest == label)[labels == label].mean() for label in range(len(STREETS))]
    assert right[list(STREETS).index("sky")] > 0.6
    assert np.mean(right) > 2 / len(STREETS)
    shifted = np.concatenate([np.roll(street.labels, 20, axis=0).ravel() for street in streets])
    assert (nearest == shifted).mean() < (nearest == labels).mean()


@pytest.mark.parametrize("layout", ["label-folder", "camvid"])
def test_saved_streets(tmp_path: Path, layout: str) -> None:
    root = save_streets(tmp_path, train=3, val=2, test=1, hw=(40, 56), seed=2, layout=layout)  # type: ignore[arg-type]
    assert check_dataset(root) == []
    streets = list(draw_streets(6, (40, 56), seed=2))
    first = 0
    for split, number in (("train", 3), ("val", 2), ("test", 1)):
        lines: list[str] = []
        maps = open_maps(Data(str(root)), split, lines.append)  # type: ignore[arg-type]
        assert f" is {layout}: " in lines[0] and len(maps) == number
        names = tuple(CAMVID) if layout == "camvid" else tuple(STREETS)
        assert maps.classes == names and maps.palette is not None
        for i in range(number):
            found, drawn = maps.labels(i), streets[first + i].labels
            assert np.array_equal(found == 255, drawn == 255)
            for label, name in enumerate(STREETS):
                assert (found[drawn == label] == [n.lower() for n in names].index(name)).all()
        first += number
        assert class_frequencies(maps).ignored > 0


def test_too_small() -> None:
    with pytest.raises(ValueError, match=r"at least 32 pixels, got \(16, 64\)"):
        next(draw_streets(1, (16, 64)))
