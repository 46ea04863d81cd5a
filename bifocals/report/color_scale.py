"""Numbers as colors, from dark violet over green to yellow, with a bar that says which is which."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

Color = tuple[int, int, int]

# Lightness rises evenly, so the order is also seen in gray and by eyes that tell red from green badly.
_STOPS: tuple[Color, ...] = (
    (58, 12, 96), (62, 74, 137), (38, 130, 142), (53, 183, 121), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_WIDE = 50.0
"""How many times as much as the smallest the largest number must be for a logarithmic scale."""
_NARROW = 0.01
"""A smaller difference, relative to the largest number, is none."""


def mix(low: Color, high: Color, share: float) -> Color:
    """`low` at 0, `high` at 1."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def ramp(share: float) -> Color:
    """The color at a place of the scale, 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    low = min(int(place), len(_STOPS) - 2)
    return mix(_STOPS[low], _STOPS[low + 1], place - low)


@dataclass(frozen=True)
class ColorScale:
    """From `low` to `high`, evenly or by logarithms. A number that is not finite has no place and is gray.

    Where both are all but equal, all numbers stand in the middle (`even`).
    """

    low: float
    high: float
    log: bool = False

    @staticmethod
    def of(values: Iterable[float]) -> ColorScale:
        """Over all finite numbers; logarithmic where they are above 0 and span much."""
        finite = [v for v in values if math.isfinite(v)]
        if not finite:
            return ColorScale(0.0, 1.0)
        low, high = min(finite), max(finite)
        return ColorScale(low, high, low > 0 and high / low > _WIDE)

    @property
    def even(self) -> bool:
        return self.high - self.low <= _NARROW * max(abs(self.high), abs(self.low))

    def place(self, value: float) -> float | None:
        """Where a number stands, 0 to 1."""
        if not math.isfinite(value):
            return None
        if self.even:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def color(self, value: float) -> Color:
        place = self.place(value)
        return (150, 150, 150) if place is None else ramp(place)

    def bar(self, width: int, height: int) -> Image.Image:
        """The colors from `low` at the left to `high` at the right."""
        bar = Image.new("RGB", (width, 1))
        bar.putdata([ramp(0.5 if self.even else x / max(1, width - 1)) for x in range(width)])
        return bar.resize((width, height))


def number(value: float) -> str:
    """A number in few letters."""
    if not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) >= 1e5 or abs(value) < 1e-3 else f"{value:.3g}"
