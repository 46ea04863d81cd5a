"""Checks of a whole set of label maps before step one: every picture, every map, one line for each defect."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .defects import Defect, count
from .draft import Log
from .file_names import name_problem, stays_inside
from .images import ImageFacts, ImageProblem, inspect_image, orientation_to_apply, size_text
from .map_content import MapFacts, inspect_map
from .map_draft import MapDraft


@dataclass(frozen=True)
class _Pair:
    picture: ImageFacts | ImageProblem
    labels: MapFacts | ImageProblem


def check_maps(draft: MapDraft, whole: bool = True, log: Log | None = None) -> MapDraft:
    """Opens every picture and every label map. The result has all sizes, and which EXIF orientations to follow.

    `whole` looks at every pixel of the labels and at the end of every picture; else at headers alone.
    """
    maps = draft.annotations
    sizes, upright = maps.sizes_hw.copy(), maps.upright.copy()
    defects: list[Defect] = []
    empty, present, judged = [], 0, 0
    undecided, followed, stored = [], 0, 0
    for index, pair in enumerate(_inspect_all(draft, whole)):
        if pair is None:
            continue
        file, label_file = maps.files[index], maps.label_files[index]
        record = f"label map of {file}"
        if isinstance(pair.picture, ImageProblem):
            defects.append(Defect(file, "picture", pair.picture.what, pair.picture.value, (index,)))
        problems = [pair.labels] if isinstance(pair.labels, ImageProblem) else list(pair.labels.problems)
        defects += [Defect(label_file, record, p.what, p.value, (index,)) for p in problems]
        if isinstance(pair.labels, ImageProblem):
            continue
        size_hw = pair.labels.size_hw
        sizes[index] = size_hw
        if pair.labels.present >= 0:
            judged, present = judged + 1, present | pair.labels.present
            if pair.labels.present == 0 and not problems:
                empty.append(index)
        if isinstance(pair.picture, ImageProblem):
            continue
        facts = pair.picture
        orientation = orientation_to_apply(facts, size_hw, upright=False)
        if orientation is None:
            what = f"expected the size of its picture, {size_text(facts.stored_hw)}"
            defects.append(Defect(label_file, record, what, size_text(size_hw), (index,)))
        elif not facts.size_settles:
            undecided.append(index)
        elif facts.orientation != 1:
            followed, stored = followed + (orientation != 1), stored + (orientation == 1)
    if undecided:
        # Half turns and squares look alike by size: they follow the pictures of the set whose size does tell.
        upright[undecided] = followed > stored
        if log is not None:
            turned = "turned upright" if followed > stored else "read as stored"
            log(f"data: {count(len(undecided), 'picture')} with an EXIF orientation that the label map's size cannot "
                f"settle: {turned}, as {followed} against {stored} others say")  # fmt: skip
    defects += _empty_maps(draft, empty, judged)
    if log is not None and judged and not defects:
        absent = [name for label, name in enumerate(maps.classes) if not present >> label & 1]
        if absent:
            shown = ", ".join(absent[:12]) + (" ..." if len(absent) > 12 else "")
            log(f"data: {len(absent)} of {len(maps.classes)} classes are in no label map: {shown}")
    checked = replace(draft, annotations=replace(maps, sizes_hw=sizes, upright=upright))
    return checked.with_defects(defects)


def _empty_maps(draft: MapDraft, empty: list[int], judged: int) -> list[Defect]:
    maps = draft.annotations
    what = "expected a class in some pixel"
    if len(empty) == judged > 1:  # of a held back test set, for one; a line for each says no more
        value = f"none in all {judged} label maps"
        return [Defect(os.path.commonpath(list(maps.label_files)) or ".", "labels", what, value, fatal=True)]
    return [
        Defect(maps.label_files[i], f"label map of {maps.files[i]}", what, "only pixels that do not count", (i,))
        for i in empty
    ]


def _inspect_all(draft: MapDraft, whole: bool) -> Iterator[_Pair | None]:
    maps = draft.annotations
    root = str(maps.root)
    known = {image for defect in draft.defects for image in defect.images}  # the reader has said what is wrong

    def guard(name: str) -> str:
        problem = name_problem(name)
        if problem is not None:
            raise ImageProblem(problem, name)
        path = os.path.join(root, name)
        if not stays_inside(path, draft.allowed):
            raise ImageProblem("expected a file that stays in the data set", f"a link to {os.path.realpath(path)}")
        return path

    def inspect(index: int) -> _Pair | None:
        if index in known:
            return None
        picture: ImageFacts | ImageProblem
        labels: MapFacts | ImageProblem
        try:
            picture = inspect_image(guard(maps.files[index]), whole)
        except ImageProblem as problem:
            picture = problem
        try:
            labels = inspect_map(draft, guard(maps.label_files[index]), whole)
        except ImageProblem as problem:
            labels = problem
        return _Pair(picture, labels)

    with warnings.catch_warnings():
        # Pillow warns of bombs and broken EXIF; both are judged here, and one line is enough.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            yield from pool.map(inspect, range(len(maps)))
