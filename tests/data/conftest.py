from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.small_set import SmallSet


@pytest.fixture(params=["coco", "voc", "yolo"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> SmallSet:
    return SmallSet(request.param, tmp_path / "set").write()


@pytest.fixture
def coco(tmp_path: Path) -> SmallSet:
    return SmallSet("coco", tmp_path / "set").write()


@pytest.fixture
def voc(tmp_path: Path) -> SmallSet:
    return SmallSet("voc", tmp_path / "set").write()


@pytest.fixture
def yolo(tmp_path: Path) -> SmallSet:
    return SmallSet("yolo", tmp_path / "set").write()
