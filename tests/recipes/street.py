"""Drawn streets: sky, houses, a road and cars, each with the class of its pixels, in a folder of images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "house", "road", "car")
COLORS = ((150, 190, 230), (170, 120, 90), (90, 90, 95), (200, 40, 50))


def draw_street(draw: np.random.Generator, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB bytes [H W 3] and labels [H W]; a strip between houses and road does not count."""
    height, width = hw
    labels = np.zeros(hw, dtype=np.uint8)
    ground = height * 5 // 8
    left = 0
    while left < width:
        wide = int(draw.integers(width // 8, width // 3))
        labels[int(draw.integers(height // 8, height // 2)) : ground, left : left + wide] = 1
        left += wide + int(draw.integers(0, width // 8))
    labels[ground:] = 2
    for _ in range(2):
        x, y = int(draw.integers(0, width - 24)), int(draw.integers(ground - 4, height - 16))
        labels[y : y + 12, x : x + 24] = 3
    noise = draw.normal(0, 12, (*hw, 3))
    image = (np.array(COLORS)[labels] + noise).clip(0, 255).astype(np.uint8)
    strip = labels[ground - 1 : ground + 1]
    strip[strip != 3] = 255
    return image, labels


def save_streets(folder: Path, number: int = 8, hw: tuple[int, int] = (64, 96)) -> Path:
    """images/SPLIT and labels/SPLIT with the same pictures for train and val, and classes.txt."""
    for split in ("train", "val"):
        draw = np.random.default_rng(0)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            image, labels = draw_street(draw, hw)
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(labels).save(folder / "labels" / split / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf8")
    return folder
