"""Checks of a whole set before anything is trained: every image, every box, one line for each defect."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .annotations import PackedStrings
from .defects import Defect, count
from .draft import Draft, Log, with_defects
from .file_names import name_problem, stays_inside
from .images import ImageFacts, ImageProblem, inspect_image, orientation_to_apply, size_text
from .segmentations import MaskProblem, run_lengths

_OVERHANG = 2.0  # pixels: rounding and half-pixel habits of annotation tools reach this far, mistakes farther


def check_draft(draft: Draft, whole: bool = True, log: Log | None = None) -> Draft:
    """Checks images, then boxes and masks. The result has all sizes, boxes in pixels and clipped to their image.

    `whole` also looks at the end of every image file; else its header alone.
    """
    return check_masks(check_boxes(check_images(draft, whole, log)), log)


def check_images(draft: Draft, whole: bool = True, log: Log | None = None) -> Draft:
    """Opens every image. Fills in sizes that were not annotated and settles which EXIF orientations to follow."""
    annotations = draft.annotations
    sizes, upright = annotations.sizes_hw.copy(), annotations.upright.copy()
    defects = []
    undecided, followed, stored = [], 0, 0
    for index, facts in enumerate(_inspect_all(draft, whole)):
        annotated = (int(sizes[index, 0]), int(sizes[index, 1]))
        if facts is None:
            continue
        if isinstance(facts, ImageProblem):
            problem = facts
        else:
            orientation = orientation_to_apply(facts, annotated, bool(upright[index]))
            if orientation is not None:
                turned = facts.upright_hw if orientation >= 5 else facts.stored_hw
                sizes[index] = turned
                if annotated == (0, 0):
                    upright[index] = True
                elif not facts.size_settles:
                    undecided.append(index)
                elif facts.orientation != 1:
                    followed, stored = followed + (orientation != 1), stored + (orientation == 1)
                continue
            problem = ImageProblem(f"expected the annotated size {size_text(annotated)}", _found_size(facts))
        file = annotations.files[index]
        defects.append(Defect(file, f"image {annotations.image_ids[index]}", problem.what, problem.value, (index,)))
    if undecided:
        # Half turns and squares look alike by size: they follow the pictures of the set whose size does tell.
        follow = followed > stored
        upright[undecided] = follow
        if log is not None:
            log(
                f"data: {count(len(undecided), 'image')} with an EXIF orientation that the annotated size cannot "
                f"settle: {'turned upright' if follow else 'read as stored'}, as {followed} against {stored} others say"
            )
    return with_defects(replace(draft, annotations=replace(annotations, sizes_hw=sizes, upright=upright)), defects)


def check_boxes(draft: Draft) -> Draft:
    """Judges every box against the size of its image, where that is known, and clips what hangs over a little.

    Wrong: a number that is not finite, no width or height, outside of the image, more than two pixels beyond it; the
    last two are right, and nothing is clipped, in a draft with `overhang`.
    """
    annotations = draft.annotations
    image_index = annotations.image_index()
    sizes = annotations.sizes_hw[image_index].astype(np.float64)
    limits = sizes[:, [1, 0, 1, 0]]  # [N 4]
    known = _rows(limits > 0)
    boxes = annotations.boxes
    if draft.relative:
        boxes = boxes * np.where(known[:, None], limits, 1.0)
    finite = _rows(np.isfinite(boxes))
    sides = np.where(finite[:, None], boxes[:, 2:], 1.0) - np.where(finite[:, None], boxes[:, :2], 0.0)
    positive = _rows(sides > 0)
    clipped = boxes if draft.overhang else np.clip(boxes, 0.0, np.where(known[:, None], limits, np.inf))
    inside = _rows(clipped[:, 2:] > clipped[:, :2])
    near = _rows(np.abs(clipped - boxes) <= _OVERHANG)
    defects = []
    for row in np.flatnonzero(~(finite & positive & inside & near)):
        image = int(image_index[row])
        size_hw = (int(annotations.sizes_hw[image, 0]), int(annotations.sizes_hw[image, 1]))
        if not finite[row]:
            what = "expected a box of finite numbers"
        elif not positive[row]:
            what = "expected a box with a positive width and height"
        elif known[row]:
            what = f"expected a box inside the image of {size_text(size_hw)}"
        else:
            continue  # the image itself is a defect already
        text = draft.box_text(boxes[row], size_hw if known[row] else (1, 1))
        defects.append(
            Defect(
                draft.source(image),
                f"{draft.noun} {draft.records[row]} ({annotations.files[image]})",
                what,
                text,
                (image,),
            )
        )
    area = np.where(
        np.isnan(annotations.area), (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1]), annotations.area
    )
    return with_defects(replace(draft, annotations=replace(annotations, boxes=clipped, area=area)), defects)


def check_masks(draft: Draft, log: Log | None = None) -> Draft:
    """Turns the segmentations of a draft, where it has them, into run lengths of the size of their image.

    Wrong: polygons and run lengths that are none (`run_lengths`), and an object without any, among others that have
    one. A set without a single segmentation has no masks.
    """
    if draft.masks is None:
        return draft
    annotations, noun = draft.annotations, draft.noun
    texts, defects, empty = [], [], 0
    concerned = {image for defect in draft.defects for image in defect.images}
    for row, (written, image) in enumerate(zip(draft.masks, annotations.image_index().tolist(), strict=True)):
        height, width = annotations.sizes_hw[image].tolist()
        if height == 0 and image in concerned:
            texts.append("")  # the image itself is a defect already
            continue
        try:
            texts.append(run_lengths(written, (height, width)))
            if texts[-1] or annotations.crowd[row]:
                continue
            empty += 1
            problem = MaskProblem("expected a segmentation, as others have", written or "nothing")
        except MaskProblem as found:
            texts.append("")
            problem = found
        record = f"{noun} {draft.records[row]} ({annotations.files[image]})"
        defects.append(Defect(draft.source(image), record, problem.what, problem.value, (image,)))
    if texts and empty == len(defects) and not any(texts):
        return draft
    if log is not None:
        log(f"data: masks of {len(texts) - texts.count('')} of {count(len(texts), 'object')}")
    packed = replace(annotations, segmentations=PackedStrings.pack(texts))
    return with_defects(replace(draft, annotations=packed), defects)


def _rows(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows hold throughout."""
    return np.asarray(mask.all(axis=1))


def _inspect_all(draft: Draft, whole: bool) -> Iterator[ImageFacts | ImageProblem | None]:
    annotations = draft.annotations
    root = str(annotations.root)

    def inspect(name: str) -> ImageFacts | ImageProblem | None:
        if name_problem(name) is not None:
            return None  # the reader of the format has said so
        path = os.path.join(root, name)
        if not stays_inside(path, draft.allowed):
            return ImageProblem("expected a file that stays in the data set", f"a link to {os.path.realpath(path)}")
        try:
            return inspect_image(path, whole)
        except ImageProblem as problem:
            return problem

    with warnings.catch_warnings():
        # Pillow warns of bombs and broken EXIF; both are judged here, and one line is enough.
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
            yield from pool.map(inspect, annotations.files)


def _found_size(facts: ImageFacts) -> str:
    turned = "" if facts.orientation == 1 else f" (EXIF orientation {facts.orientation})"
    return size_text(facts.stored_hw) + turned
