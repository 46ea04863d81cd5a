"""Half a million annotations in less than 200 MiB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

IMAGES, OBJECTS = 80_000, 500_000
LIMIT = 200  # MiB

SCRIPT = """
import json, sys
from pathlib import Path
from bifocals.data import load_coco
def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: importing torch is another matter
before = resident("VmRSS")
annotations = load_coco(sys.argv[1])
print(json.dumps([resident("VmHWM") - before, len(annotations), len(annotations.boxes)]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to read the peak")
def test_peak_of_loading(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    polygon = json.dumps([[round(100 + i * 1.37, 2) for i in range(40)]])
    with open(path, "w") as file:
        file.write('{"info": {}, "images": [')
        file.write(", ".join(
            f'{{"license": 3, "file_name": "{i:012d}.jpg", "height": 480, "width": 640, "id": {i}}}'
            for i in range(IMAGES)
        ))  # fmt: skip
        file.write('], "annotations": [')
        for start in range(0, OBJECTS, 10_000):
            file.write("" if start == 0 else ", ")
            file.write(", ".join(
                f'{{"segmentation": {polygon}, "area": 702.1, "iscrowd": 0, "image_id": {i % IMAGES}, '
                f'"bbox": [{i % 500}.07, {i % 300}.93, 38.65, 28.67], "category_id": {i % 80 + 1}, "id": {i}}}'
                for i in range(start, start + 10_000)
            ))  # fmt: skip
        file.write('], "categories": [')
        file.write(", ".join(f'{{"id": {i + 1}, "name": "c{i}"}}' for i in range(80)))
        file.write("]}")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    growth, images, objects = json.loads(done.stdout)
    assert (images, objects) == (IMAGES, OBJECTS)
    assert growth < LIMIT, f"{growth:.0f} MiB"
