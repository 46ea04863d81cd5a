"""May this network ship without NMS? A verdict, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bifocals.data import Annotations
from bifocals.structures import Detections

from .bootstrap import CONFIDENCE, Interval, interval, resampled_ap
from .duplicates import duplicate_rate
from .matches import match

MARGIN = 0.005
"""How much AP an NMS may seem to add before an output counts as one that needs it."""

FEWEST_IMAGES = 20
"""Images with objects below which no interval is believed: resampling a handful of images sees too little."""

WEAKEST = 10.0
"""How many margins of AP a network has with NMS at least, for one that finds next to nothing loses nothing either."""

RESAMPLES = 1000

Verdict = Literal["safe", "not yet", "cannot tell"]


@dataclass(frozen=True)
class Trust:
    """Whether an output does without NMS, and how sure that is.

    The rule looks at one number, `gain`, the AP with NMS minus the AP without:

    - safe: the upper bound of its interval is at most `margin`: what NMS may add is too little to matter.
    - not yet: the lower bound is above `margin`: NMS adds more than that, surely.
    - cannot tell: the margin lies inside the interval; or fewer than `FEWEST_IMAGES` images hold objects; or the output
      would be safe, but its AP with NMS is below `WEAKEST` margins. In a sentence this is "not yet" too, and says why.

    A gain may be negative: NMS also removes objects that overlap. `deficit`, the AP of the network's other output with
    NMS of its own minus the AP without NMS, and `duplicate_rate` are told beside the verdict and do not decide: the
    first says what the network gave up for being NMS-free, the second what a user sees.

    ap: without NMS. nms: the IoU of the NMS. other, other_nms: name of the other output and the IoU of its NMS, None
    where there is none. images: those with objects. resamples: of the images, the same for all that is compared.
    """

    output: str
    ap: float
    nms: float
    gain: Interval
    other: str | None
    other_nms: float | None
    deficit: Interval | None
    duplicate_rate: float
    margin: float
    images: int
    resamples: int

    @property
    def verdict(self) -> Verdict:
        """By the rule above."""
        if self.images < FEWEST_IMAGES or math.isnan(self.gain.low):
            return "cannot tell"
        if self.gain.low > self.margin:
            return "not yet"
        return "safe" if self.gain.high <= self.margin and not self._weak else "cannot tell"

    @property
    def _weak(self) -> bool:
        return self.ap + self.gain.value < WEAKEST * self.margin

    @property
    def safe(self) -> bool:
        return self.verdict == "safe"

    def sentence(self) -> str:
        """The verdict and why, in a sentence; a second one compares with the other output where there is one."""
        nms = f"NMS at IoU {_plain(self.nms)}"
        found = {
            "safe": f"NMS-free safe: {nms} would change AP by",
            "not yet": f"NMS-free not yet: {nms} adds AP for sure,",
            "cannot tell": f"NMS-free not yet: {self._why_not()}; {nms} would change AP by",
        }[self.verdict]
        text = (f"{found} {_signed(self.gain.value)} ({_bounds(self.gain)} of {self.resamples:,} resamples, margin "
                f"{_plain(self.margin)}), duplicate rate {_plain(self.duplicate_rate, 3)}.")
        if self.deficit is not None:
            assert self.other_nms is not None
            text += (f" Against {self.output} without NMS, {self.other} with NMS at IoU {_plain(self.other_nms)} has "
                     f"{_signed(self.deficit.value)} AP ({_bounds(self.deficit)}).")
        return text

    def _why_not(self) -> str:
        if self.images == 0:
            return "this set holds no object"
        if self.images < FEWEST_IMAGES:
            return (f"this set is too small to tell, {self.images} images with objects where {FEWEST_IMAGES} are the "
                    "fewest")
        if self.gain.high > self.margin:
            return "this set is too small to tell"
        return f"the network is too weak to tell, AP {_plain(self.ap, 4)}"

    def to_json(self) -> dict[str, Any]:
        """Everything as values that JSON has; NaN becomes None."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "output": self.output,
            "ap": None if math.isnan(self.ap) else self.ap,
            "nms": self.nms,
            "gain": self.gain.to_json(),
            "other": self.other,
            "other_nms": self.other_nms,
            "deficit": None if self.deficit is None else self.deficit.to_json(),
            "duplicate_rate": self.duplicate_rate,
            "margin": self.margin,
            "confidence": CONFIDENCE,
            "images": self.images,
            "resamples": self.resamples,
        }


def trust_in(
    output: str,
    free: Mapping[int, Detections],
    suppressed: Mapping[int, Detections],
    annotations: Annotations,
    *,
    nms: float,
    other: tuple[str, float, Mapping[int, Detections]] | None = None,
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
    max_detections: int = 100,
) -> Trust:
    """Judges an output by its detections without NMS (`free`) and with NMS at IoU `nms` (`suppressed`), by image id.

    other: name, NMS and detections of another output of the same network. max_detections: of an image and a class, for
    AP. The intervals are those of a paired bootstrap over images; see `resampled_ap`. Errors as in
    `average_precision`; ValueError for a margin that is negative.
    """
    if not margin >= 0:
        raise ValueError(f"trust_in expected a margin of at least 0, got {margin}; it is a difference of AP, 0..1.")
    variants = [free, suppressed, *([] if other is None else [other[2]])]
    matches = [match(detections, annotations, max_detections=max_detections) for detections in variants]
    ones = np.ones((1, matches[0].num_images), dtype=np.int32)
    value = [float(one.ap(ones)[0]) for one in matches]
    resampled = resampled_ap(matches, resamples, seed)
    return Trust(
        output=output,
        ap=value[0],
        nms=nms,
        gain=interval(value[1] - value[0], resampled[1] - resampled[0]),
        other=None if other is None else other[0],
        other_nms=None if other is None else other[1],
        deficit=None if other is None else interval(value[2] - value[0], resampled[2] - resampled[0]),
        duplicate_rate=duplicate_rate(free, annotations),
        margin=margin,
        images=matches[0].images_with_objects,
        resamples=resamples,
    )


def _bounds(found: Interval) -> str:
    return f"{CONFIDENCE:.0%} interval {_signed(found.low)} to {_signed(found.high)}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}".replace("0.", ".", 1)


def _plain(value: float, digits: int | None = None) -> str:
    text = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if value < 1 else text
