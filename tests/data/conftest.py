from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.small_maps import FORMATS, SmallMaps
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


@pytest.fixture(params=FORMATS)
def small_maps(request: pytest.FixtureRequest, tmp_path: Path) -> SmallMaps:
    return SmallMaps(request.param, tmp_path / "maps").write()


@pytest.fixture
def folder(tmp_path: Path) -> SmallMaps:
    return SmallMaps("label-folder", tmp_path / "maps").write()
