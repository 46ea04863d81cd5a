"""Objects that Pascal VOC marks difficult: no objects in training unless asked for, and no part of any number."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bifocals.data import Annotations, Data, load_voc, open_split, save_voc
from tests.data.small_set import SmallSet


@pytest.fixture
def marked(voc: SmallSet) -> SmallSet:
    """The second of the three objects of the third picture is difficult, and the picture is train and val."""
    text = voc.source(2).read_text()
    first, second, rest = text.split("<difficult>0", 2)
    voc.source(2).write_text(f"{first}<difficult>0{second}<difficult>1{rest}")
    (voc.root / "ImageSets" / "Main" / "val.txt").write_text("2\n")
    return voc


def test_difficult_is_kept_apart_and_left_out_of_training(marked: SmallSet) -> None:
    annotations = marked.open()
    assert annotations.difficult.tolist() == [False] * 4 + [True, False]
    assert annotations.crowd.tolist() == annotations.difficult.tolist()
    target = annotations.source(2)[1].without_crowd()
    assert len(target.boxes) == 2
    assert target.regions.tolist() == [[1, 1, 63, 47]]


def test_keep_makes_it_an_object_of_training_alone(marked: SmallSet) -> None:
    kept = marked.open(difficult="keep")
    assert not kept.crowd.any()
    assert kept.difficult.sum() == 1
    assert len(kept.source(2)[1].without_crowd().boxes) == 3
    val = open_split(Data(root=str(marked.root), difficult="keep"), "val", log=None)
    assert val.crowd.tolist() == [False, True, False]
    with pytest.raises(ValueError, match="Data expected difficult to be leave-out or keep, got 'drop'"):
        Data(difficult="drop")  # type: ignore[arg-type]


def test_it_travels(marked: SmallSet, tmp_path: Path) -> None:
    annotations = load_voc(marked.root, "train")
    assert annotations.subset([2, 0]).difficult.tolist() == [False, True, False, False, False]
    save_voc(replace(annotations, crowd=np.zeros(6, dtype=bool)), tmp_path / "copy")
    again = load_voc(tmp_path / "copy", "train")
    assert again.difficult.tolist() == annotations.difficult.tolist()


def test_the_digest_knows_it_and_is_the_old_one_without(marked: SmallSet, tmp_path: Path) -> None:
    annotations = marked.open()
    plain = replace(annotations, difficult=np.zeros(6, dtype=bool))
    assert annotations.fingerprint() != plain.fingerprint()
    # What a run of a release before recorded, computed here the way it was.
    old = SmallSet("coco", tmp_path / "other").write().open()
    digest = hashlib.sha256("\0".join([*old.files, *old.classes]).encode())
    for name in ("image_ids", "sizes_hw", "offsets", "boxes", "labels", "crowd", "area", "upright"):
        digest.update(np.ascontiguousarray(getattr(old, name)).tobytes())
    assert old.fingerprint() == digest.hexdigest()


def test_a_mark_for_each_object(coco: SmallSet) -> None:
    annotations: Annotations = coco.open()
    with pytest.raises(ValueError, match=r"expected difficult of \(6,\)"):
        replace(annotations, difficult=np.zeros(2, dtype=bool))
