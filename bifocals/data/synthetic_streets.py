"""Streets drawn from a seed, with the exact class of every pixel: road, sky, buildings, cars, poles.

Letters: H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bifocals.structures import IGNORED

from .camvid import CAMVID
from .label_folder import write_class_list
from .label_maps import Color
from .painting import smooth_noise

STREETS: dict[str, Color] = {
    "road": (128, 64, 128),
    "pavement": (244, 35, 232),
    "building": (70, 70, 70),
    "sky": (70, 130, 180),
    "tree": (107, 142, 35),
    "car": (0, 0, 142),
    "pole": (153, 153, 153),
}
_NAMES = tuple(STREETS)
_IN_CAMVID = {"road": "Road", "pavement": "Pavement", "building": "Building", "sky": "Sky", "tree": "Tree",
              "car": "Car", "pole": "Pole"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Street:
    """A drawn picture and the class of each pixel, a place in `STREETS`; 255 where the camera's own car stands."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]


def draw_streets(num: int, hw: tuple[int, int] = (120, 160), seed: int = 0, *, first: int = 0) -> Iterator[Street]:
    """Streets number `first` to `first + num - 1` of a seed; each depends on the seed and its own number alone."""
    if min(hw) < 32:
        raise ValueError(f"draw_streets expected a height and width of at least 32 pixels, got {hw}.")
    for number in range(first, first + num):
        draws = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
        yield _Painter(hw, draws).street()


def save_streets(
    folder: Path | str,
    *,
    train: int = 120,
    val: int = 30,
    test: int = 0,
    hw: tuple[int, int] = (120, 160),
    seed: int = 0,
    layout: Literal["label-folder", "camvid"] = "label-folder",
) -> Path:
    """Draws a segmentation set: images/SPLIT and labels/SPLIT with classes.json, or CamVid's SPLIT and SPLITannot.

    The latter has CamVid's numbers, of which four never occur. Splits follow each other in the seed's numbers.
    """
    folder, first = Path(folder), 0
    numbers = np.arange(256, dtype=np.uint8)
    if layout == "camvid":
        known = tuple(CAMVID)
        numbers = np.full(256, len(known), dtype=np.uint8)
        numbers[: len(_NAMES)] = [known.index(_IN_CAMVID[name]) for name in _NAMES]
    for split, number in (("train", train), ("val", val), ("test", test)):
        if number == 0:
            continue
        pictures = folder / split if layout == "camvid" else folder / "images" / split
        labels = folder / f"{split}annot" if layout == "camvid" else folder / "labels" / split
        pictures.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for index, street in enumerate(draw_streets(number, hw, seed, first=first), first):
            Image.fromarray(street.image).save(pictures / f"{index:06d}.jpg", quality=95)
            Image.fromarray(numbers[street.labels]).save(labels / f"{index:06d}.png")
        first += number
    if layout == "label-folder":
        write_class_list(folder / "classes.json", _NAMES, tuple(STREETS.values()))
    return folder


class _Painter:
    """One street: ground and houses first, then what stands on the ground, far things before near ones."""

    def __init__(self, hw: tuple[int, int], draws: np.random.Generator) -> None:
        self.hw, self.draws = hw, draws
        height, width = hw
        self.y, self.x = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
        self.horizon = height * draws.uniform(0.36, 0.5)
        self.vanish = width * draws.uniform(0.35, 0.65)  # where the road leads to
        self.canvas = np.zeros((height, width, 3), dtype=np.float32)
        self.labels = np.full(hw, _NAMES.index("sky"), dtype=np.uint8)
        # Pixels from the road's middle to its edges, for each pixel below the horizon.
        self.near = (self.y - self.horizon) / (height - self.horizon)
        self.half_road = width * draws.uniform(0.4, 0.6)

    def street(self) -> Street:
        draws = self.draws
        light = draws.uniform(0.65, 1.1)
        self._sky()
        self._houses()
        self._ground()
        things = [(depth, kind) for kind, most in (("tree", 4), ("pole", 5), ("car", 5))
                  for depth in draws.uniform(0.08, 0.9, int(draws.integers(1, most + 1)))]  # fmt: skip
        for depth, kind in sorted(things):
            {"tree": self._tree, "pole": self._pole, "car": self._car}[kind](float(depth))
        self._hood()
        image = self.canvas * light + draws.normal(0, 0.02, self.canvas.shape).astype(np.float32)
        picture = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
        # A lens: edges of one to two pixels.
        return Street(np.asarray(picture.filter(ImageFilter.GaussianBlur(self.hw[0] / 240))), self.labels)

    def _fill(self, mask: NDArray[np.bool_], colors: NDArray[np.floating], name: str | None) -> None:
        self.canvas[mask] = np.broadcast_to(colors, self.canvas.shape)[mask]
        self.labels[mask] = IGNORED if name is None else _NAMES.index(name)

    def _texture(self, color: NDArray[np.floating], strength: float, cells: tuple[int, ...]) -> NDArray[np.floating]:
        noise = smooth_noise(self.hw, cells, self.draws)[..., None] - 0.5
        return np.asarray(color * (1 + strength * noise))

    def _sky(self) -> None:
        blue = np.array([0.45, 0.62, 0.85]) * self.draws.uniform(0.85, 1.1)
        white = smooth_noise(self.hw, (3, 6, 12), self.draws)[..., None] * self.draws.uniform(0.3, 1.0)
        white = np.clip(white + 0.4 * self.y[..., None] / self.hw[0], 0, 1)
        colors = blue + (np.array([0.93, 0.93, 0.95]) - blue) * white
        self._fill(np.ones(self.hw, dtype=bool), colors, "sky")

    def _houses(self) -> None:
        draws, (height, width) = self.draws, self.hw
        left = -draws.uniform(0, 0.1) * width
        while left < width:
            wide = width * draws.uniform(0.1, 0.26)
            away = abs(left + wide / 2 - self.vanish) / width  # houses near the vanishing point are far
            top = self.horizon - height * draws.uniform(0.06, 0.3) * (0.4 + 1.6 * away)
            if draws.uniform() < 0.85:
                wall = draws.uniform(0.25, 0.8) * np.array([1.0, draws.uniform(0.75, 1.0), draws.uniform(0.6, 1.0)])
                colors = self._texture(wall, 0.25, (8, 32))
                pitch = wide / draws.uniform(3, 6)
                u, v = (self.x - left) % pitch / pitch, (self.y - top) % (1.3 * pitch) / (1.3 * pitch)
                glass = (u > 0.3) & (u < 0.75) & (v > 0.3) & (v < 0.8)
                colors = np.where(glass[..., None], wall * draws.uniform(0.25, 0.6), colors)
                mask = (self.x >= left) & (self.x < left + wide) & (self.y >= top)
                self._fill(mask, colors, "building")
            left += wide

    def _ground(self) -> None:
        draws = self.draws
        below = self.y >= self.horizon
        stone = self._texture(np.full(3, draws.uniform(0.45, 0.65)), 0.4, (16, 64))
        self._fill(below, stone, "pavement")
        asphalt = self._texture(np.array([0.32, 0.32, 0.34]) * draws.uniform(0.7, 1.2), 0.35, (8, 32, 64))
        offset = np.abs(self.x - self.vanish)
        self._fill(below & (offset < self.half_road * (0.06 + self.near)), asphalt, "road")
        dash = (np.mod(6 / np.maximum(self.near, 0.02), 2) < 1) & (offset < 0.04 * self.half_road * (0.1 + self.near))
        self._fill(below & dash, np.full(3, 0.85), "road")

    def _place(self, depth: float, beside: bool) -> tuple[float, float, float]:
        """x and y of the foot of something, and pixels of about a meter there. depth: 0 at the horizon, 1 in front."""
        foot = self.horizon + depth * (self.hw[0] - self.horizon)
        half = self.half_road * (0.06 + depth)
        side = self.draws.choice([-1.0, 1.0])
        way = self.draws.uniform(1.1, 1.5) if beside else self.draws.uniform(0.25, 0.7)
        return self.vanish + side * way * half, foot, half / 4

    def _tree(self, depth: float) -> None:
        draws = self.draws
        x, foot, scale = self._place(depth, beside=True)
        bark = (np.abs(self.x - x) < max(0.6, 0.16 * scale)) & (self.y < foot) & (self.y > foot - 3 * scale)
        self._fill(bark, np.array([0.3, 0.22, 0.15]), "tree")
        radius = scale * draws.uniform(1.2, 2.2)
        wave = 0.75 + 0.5 * smooth_noise(self.hw, (8, 16, 32), draws)
        crown = np.hypot(self.x - x, self.y - (foot - 3 * scale - 0.6 * radius)) < radius * wave
        green = np.array([0.25, 0.42, 0.16]) * draws.uniform(0.6, 1.3)
        self._fill(crown, self._texture(green, 1.2, (16, 32, 64)), "tree")

    def _pole(self, depth: float) -> None:
        draws = self.draws
        x, foot, scale = self._place(depth, beside=True)
        tall, thick = scale * draws.uniform(3.5, 6), max(0.7, 0.09 * scale)
        gray = np.full(3, draws.uniform(0.15, 0.6))
        self._fill((np.abs(self.x - x) < thick) & (self.y < foot) & (self.y > foot - tall), gray, "pole")
        reach = scale * draws.uniform(0.5, 1.5) * np.sign(self.vanish - x)
        arm = (np.abs(self.y - (foot - tall)) < thick) & ((self.x - x) * np.sign(reach) > -thick)
        self._fill(arm & (np.abs(self.x - x) < abs(reach)), gray, "pole")

    def _car(self, depth: float) -> None:
        draws = self.draws
        x, foot, scale = self._place(depth, beside=False)
        wide, high = 0.9 * scale * draws.uniform(0.9, 1.2), 0.75 * scale * draws.uniform(0.85, 1.2)
        u, v = (self.x - x) / wide, (foot - self.y) / high  # body: |u| < 1, v from 0 to 2
        body = (np.abs(u) < 1) & (v > 0.15) & (v < 1.05)
        cabin = (np.abs(u) < 0.95 - 0.35 * (v - 1)) & (v >= 1.0) & (v < 1.9)
        wheel = (np.abs(np.abs(u) - 0.75) < 0.17) & (v > 0) & (v < 0.5)
        paint = draws.uniform(0.1, 0.95, 3) * draws.uniform(0.5, 1.0)
        self._fill(body | cabin, paint * np.clip(0.75 + 0.2 * v[..., None], 0, 1.2), "car")
        window = cabin & (np.abs(u) < 0.7 - 0.3 * (v - 1)) & (v > 1.15) & (v < 1.75)
        self._fill(window, np.array([0.12, 0.15, 0.2]), "car")
        self._fill(wheel, np.full(3, 0.05), "car")
        lamp = (np.abs(np.abs(u) - 0.8) < 0.12) & (np.abs(v - 0.8) < 0.14)
        self._fill(lamp, np.array([0.85, 0.1, 0.08]) if draws.uniform() < 0.5 else np.array([0.95, 0.95, 0.8]), "car")

    def _hood(self) -> None:
        """The camera's own car at the lower edge, which counts as nothing."""
        height, width = self.hw
        rise = height * self.draws.uniform(0.02, 0.07)
        arch = height - rise * np.sqrt(np.clip(1 - ((self.x - width / 2) / (0.55 * width)) ** 2, 0, 1))
        self._fill(self.y > arch, np.full(3, 0.12), None)
