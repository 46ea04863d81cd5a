"""bifocals nms-recall --data.root DIR"""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from bifocals.data import Data, open_split
from bifocals.evaluate import nms_recall


def run(argv: list[str]) -> int:
    tyro.cli(nms_recall_of_set, args=argv, prog="bifocals nms-recall")
    return 0


def nms_recall_of_set(
    data: Data = Data(),
    split: Literal["train", "val", "test"] = "val",
    thresholds: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8),
    json: Path | None = None,
) -> None:
    """Prints the recall that NMS leaves to perfect detections of an annotated set, at each threshold.

    The annotated boxes are the detections: all but crowd regions, cut to their image, all of the same score. A greedy
    NMS goes through those of each class in the order of the file, and drops a box whose IoU with a kept one is above
    the threshold. A kept box finds its own object and no other, so recall is kept boxes of all objects: what a detector
    with perfect boxes loses to this NMS. No network is involved; the row "Annotations" of DATE's Table 4 is such a
    number.

    Args:
        data: Where the images are.
        split: The part of the set.
        thresholds: IoU of the NMS, one or more.
        json: A file for the numbers.
    """
    annotations = open_split(data, split, whole=False)
    rows = nms_recall(annotations, thresholds)
    table = Table(title=f"{split}: {len(annotations)} images, {rows[0].objects} objects, "
                        f"{rows[0].objects / max(1, len(annotations)):.1f} an image", title_justify="left")
    for column in ("NMS IoU", "recall", "kept", "objects", "pairs above", "objects in pairs"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(f"{row.threshold:g}", f"{row.recall:.4f}", f"{row.found:,}", f"{row.objects:,}",
                      f"{row.pairs:,}", f"{row.in_pairs:,}")
    Console(width=100).print(table)
    if json is not None:
        record = {"split": split, "images": len(annotations), "classes": list(annotations.classes),
                  "rows": [row.to_json() for row in rows]}
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_module.dumps(record, indent=1) + "\n", encoding="utf8")
        print(f"saved {json}")
