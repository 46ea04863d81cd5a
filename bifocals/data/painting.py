"""Paints textured objects and photograph-like backgrounds: the material of synthetic scenes.

Colors are float32 in [0, 1]; H and W are pixels, D the side of an object's window.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]

# Each shape is the radius of its outline at an angle, at most 1; a ring has a hole besides.
SHAPES: dict[str, Callable[[Field], NDArray[np.floating]]] = {
    "disc": lambda angle: np.ones_like(angle),
    "box": lambda angle: _polygon(angle, 4),
    "triangle": lambda angle: _polygon(angle, 3),
    "star": lambda angle: 0.72 + 0.28 * np.cos(5 * angle),
    "ring": lambda angle: np.ones_like(angle),
    "cross": lambda angle: np.minimum(1, 0.36 / np.maximum(np.abs(_sawtooth(angle, 4)), 0.36)) * _cross(angle),
    "hexagon": lambda angle: _polygon(angle, 6),
    "trefoil": lambda angle: 0.68 + 0.32 * np.cos(3 * angle),
}
_HOLE = 0.5  # of a ring's radius


def paint_object(
    shape: str, radius: float, hue: float, draws: np.random.Generator
) -> tuple[Field, NDArray[np.float32]]:
    """One object of about `radius` pixels: its coverage [D D] with soft edges, and its colors [D D 3].

    Stretch, turn, colors, pattern and light are drawn; the object sits in the middle of the window.
    """
    stretch, turn = draws.uniform(0.72, 1.0), draws.uniform(0, 2 * np.pi)
    half = int(np.ceil(radius)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32) / np.float32(radius)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = x * cos + y * sin, (y * cos - x * sin) / np.float32(stretch)
    distance, angle = np.hypot(u, v), np.arctan2(v, u)
    outline = SHAPES[shape](angle).astype(np.float32)
    coverage = np.clip((outline - distance) * radius + 0.5, 0, 1)
    if shape == "ring":
        coverage *= np.clip((distance - _HOLE) * radius + 0.5, 0, 1)

    first, second = _color(hue, draws), _color(hue + draws.normal(0, 0.04), draws)
    mix = np.clip(0.5 + 0.5 * (u * draws.uniform(-1, 1) + v * draws.uniform(-1, 1)), 0, 1)
    mix = np.clip(mix + draws.uniform(0.25, 0.8) * _pattern(u, v, distance, draws), 0, 1)
    colors = first + (second - first) * mix[..., None]
    # Light from one side, and less of it at the rim, as on a ball.
    light = draws.uniform(0, 2 * np.pi)
    shade = 0.8 + 0.28 * (x * np.cos(light) + y * np.sin(light)) - 0.3 * np.clip(distance / outline, 0, 1) ** 4
    grain = draws.normal(0, 0.03, mix.shape).astype(np.float32)
    return coverage.astype(np.float32), (colors * shade[..., None] + grain[..., None]).astype(np.float32)


def paint_background(hw: tuple[int, int], draws: np.random.Generator) -> NDArray[np.float32]:
    """A background [H W 3]: smooth noise of many sizes in a few natural colors, lit from one side, with grain."""
    height, width = hw
    base = np.array([_color(draws.uniform(), draws, 0.45) for _ in range(3)], dtype=np.float32)
    tone = smooth_noise(hw, (2, 4, 8, 16, 32, 64), draws)
    tint = smooth_noise(hw, (2, 5), draws)
    image = base[0] + (base[1] - base[0]) * tone[..., None]
    image += (base[2] - image) * (0.6 * tint[..., None])
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    light = draws.uniform(0, 2 * np.pi)
    shade = 0.9 + 0.25 * (y[:, None] * np.sin(light) + x * np.cos(light)) - 0.12 * (y[:, None] ** 2 + x**2)
    image *= shade[..., None].astype(np.float32)
    image += draws.normal(0, 0.02, (height, width, 1)).astype(np.float32)
    return image


def smooth_noise(hw: tuple[int, int], cells: tuple[int, ...], draws: np.random.Generator) -> Field:
    """Noise [H W] in [0, 1]: a sum of random grids, the finer the weaker, smoothly enlarged."""
    height, width = hw
    total = np.zeros(hw, dtype=np.float32)
    for number in cells:
        grid = draws.normal(0, 1, (max(2, number * height // max(hw)) + 1, max(2, number * width // max(hw)) + 1))
        layer = Image.fromarray(grid.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / number**0.6
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / max(high - low, 1e-6))


def _polygon(angle: NDArray[np.floating], sides: int) -> NDArray[np.floating]:
    """The outline of a regular polygon with its corners at radius 1."""
    sector = 2 * np.pi / sides
    return np.cos(sector / 2) / np.cos(np.mod(angle, sector) - sector / 2)


def _sawtooth(angle: NDArray[np.floating], teeth: int) -> NDArray[np.floating]:
    """The sine of the way from the nearest of some axes."""
    sector = 2 * np.pi / teeth
    return np.sin(np.mod(angle + sector / 2, sector) - sector / 2)


def _cross(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Keeps the ends of a cross straight."""
    sector = np.pi / 2
    return 0.94 / np.maximum(np.cos(np.mod(angle + sector / 2, sector) - sector / 2), 0.94)


def _pattern(u: Field, v: Field, distance: Field, draws: np.random.Generator) -> NDArray[np.floating]:
    """One of stripes, rings, checks, spots and clouds, in [-1, 1]."""
    kind, rate, phase = draws.integers(5), draws.uniform(4, 11), draws.uniform(0, 6)
    if kind == 0:
        return np.sin(rate * u + phase)
    if kind == 1:
        return np.sin(rate * distance + phase)
    if kind == 2:
        return np.sign(np.sin(rate * u + phase) * np.sin(rate * v + phase))
    if kind == 3:
        return np.sin(rate * u + phase) * np.sin(rate * v)
    return 2 * smooth_noise((u.shape[0], u.shape[1]), (3, 6, 12), draws) - 1


def _color(hue: float, draws: np.random.Generator, saturation: float = 0.75) -> NDArray[np.float32]:
    rgb = colorsys.hsv_to_rgb(hue % 1.0, saturation * draws.uniform(0.5, 1.0), draws.uniform(0.45, 1.0))
    return np.array(rgb, dtype=np.float32)
