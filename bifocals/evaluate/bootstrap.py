"""How much a difference of two APs would vary if the set had held other images of the same kind.

AP is no mean over images, so the detections of each resample are pooled again; see `matches` for how that is fast.
hotcoco's own `compare` draws images with replacement too, but counts each once however often it was drawn: its
intervals are a fifth too narrow.

Letters: I images, R resamples, V variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from .matches import Matches

CONFIDENCE = 0.95
_NUMBERS_AT_ONCE = 1 << 22  # weights in memory


@dataclass(frozen=True)
class Interval:
    """A number and the bounds of the middle `CONFIDENCE` of its resamples. NaN where it does not exist."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three numbers by name; NaN becomes None."""
        return {name: None if math.isnan(number) else number for name, number in asdict(self).items()}


def resampled_ap(variants: Sequence[Matches], resamples: int, seed: int = 0) -> Float[np.ndarray, "V R"]:
    """AP of each variant in each resample: as many images as there are, each drawn from all of them.

    The variants are detections of the same images, and one resample holds the same images for all of them, so that
    what is difficult about an image does not count as a difference. NaN where a resample has no object.
    ValueError without variants, for variants of different sets, and for less than one resample.
    """
    sizes = {variant.num_images for variant in variants}
    if len(sizes) != 1:
        raise ValueError(f"resampled_ap expected matches of one set of images, got sets of {sorted(sizes)} images; "
                         "a resample holds the same images for all of them.")
    if resamples < 1:
        raise ValueError(f"resampled_ap expected at least 1 resample, got {resamples}; 1,000 give an interval.")
    (num_images,) = sizes
    rng = np.random.default_rng(seed)
    step = max(1, _NUMBERS_AT_ONCE // max(1, num_images))
    parts = []
    for start in range(0, resamples, step):
        weights = np.zeros((min(step, resamples - start), num_images), dtype=np.int32)
        for row in weights if num_images else ():
            row += np.bincount(rng.integers(num_images, size=num_images), minlength=num_images).astype(np.int32)
        parts.append(np.stack([variant.ap(weights) for variant in variants]))
    return np.concatenate(parts, axis=1)


def interval(value: float, resampled: Float[np.ndarray, "R"]) -> Interval:
    """The value with the percentile interval of its resamples; those in which it does not exist are left out."""
    real = resampled[~np.isnan(resampled)]
    if math.isnan(value) or not len(real):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(real, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))
