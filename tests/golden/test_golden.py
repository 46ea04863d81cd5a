"""Walks every recorded case of `$BIFOCALS_GOLDEN` and replays it through the one table below.

Another folder of the same layout with other numbers runs unchanged: a case's folder and name choose the replay, its
file gives the hyper-parameters, the inputs and the tolerance.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from . import anchors, assigners, branches, detections, losses
from .case import Case

SHARED = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2].parent / "shared"))
FOLDER = Path(os.environ.get("BIFOCALS_GOLDEN", SHARED / "golden"))

REPLAYS: dict[str, Callable[[Case], None]] = {
    "anchors/points_*": anchors.points,
    "assign_fcos/*": assigners.fcos,
    "assign_poto/*": assigners.poto,
    "assign_pred/hungarian*": assigners.hungarian,
    "losses/sigmoid_focal_*": losses.focal,
    "losses/iou_*": losses.iou("linear"),
    "losses/giou*": losses.iou("giou"),
    "losses/diou*": losses.iou("diou"),
    "losses/ciou_torchvision": losses.iou("ciou"),
    "losses/ciou_mmdet": losses.iou("ciou_gated"),
    "branch_loss/fcos_*": branches.fcos,
    "branch_loss/onenet_original": branches.onenet_original,
    "branch_loss_date/o2m_fcos": branches.date_fcos,
    "branch_loss_date/o2o_poto": branches.date_one2one,
    "branch_loss_date/o2o_onenet_cost": branches.date_one2one,
    "postprocess/date_o2o_*": detections.postprocess,
    "postprocess/fcos*": detections.postprocess,
    "metrics/coco_ap*": detections.coco_ap,
}

# Cases whose method is not built yet, and the outputs of built cases that belong to such a method.
NOT_YET = {
    "anchors/*_anchors": "anchor heads",
    "assign_atss/*": "ATSS",
    "assign_maxiou/*": "MaxIoU",
    "assign_pred/simota": "SimOTA",
    "assign_pred/tal": "task-aligned assignment",
    "box_coder/delta_xywh_*": "anchor deltas",
    "box_coder/distance_point": "capped distances",
    "branch_loss/atss": "ATSS",
    "branch_loss/freeanchor": "FreeAnchor",
    "branch_loss/mal_released": "multiple anchor learning",
    "branch_loss/retinanet_*": "RetinaNet",
    "branch_loss/vfnet": "VFNet refinement",
    "branch_loss_date/o2m_retina": "DATE-R",
    "branch_loss_date/o2o_poto_3dmf": "3DMF",
    "losses/alpha_*": "alpha-IoU",
    "losses/balanced_l1*": "Libra R-CNN",
    "losses/ciou_wiourepo": "CIoU of the Wise-IoU release",
    "losses/dfl": "distribution focal loss",
    "losses/dr_loss": "DR loss",
    "losses/eiou_*": "EIoU",
    "losses/extended_eiou_mmdet": "EIoU",
    "losses/focal_eiou_*": "Focal-EIoU",
    "losses/freeanchor_bag": "FreeAnchor",
    "losses/ghmc_*": "GHM-C",
    "losses/l1": "anchor deltas",
    "losses/ohem_ce_*": "segmentation",
    "losses/quality_focal": "QFL",
    "losses/siou": "SIoU",
    "losses/smooth_l1_*": "anchor deltas",
    "losses/varifocal_*": "VFL",
    "losses/wiou_v3": "Wise-IoU",
    "metrics/crowdhuman": "CrowdHuman metrics",
    "metrics/miou": "segmentation",
    "metrics/voc_ap": "the VOC protocol",
    "modules/*": "3DMF, MAL, BiSeNet, elastic and star modules",
    "postprocess/atss": "ATSS",
    "postprocess/retinanet": "RetinaNet",
    "postprocess/rpn": "two-stage detectors",
    "postprocess/vfnet": "VFNet refinement",
    "search/*": "architecture search",
}
NOT_YET_OUTPUTS = {"assign_poto/*": ("*_defcn_aux_*",)}


def _find(table: dict, name: str):
    """The entry for a case; an exact name comes before a pattern."""
    if name in table:
        return table[name]
    return next((entry for pattern, entry in table.items() if fnmatch(name, pattern)), None)


def _names() -> list[str]:
    return sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.glob("*/*.json"))


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recorded cases at {FOLDER} (BIFOCALS_GOLDEN)")
def test_there_are_cases():
    assert _names(), f"{FOLDER} holds no case"


@pytest.mark.parametrize("name", _names())
def test_replay(name: str):
    waiting, replay = _find(NOT_YET, name), _find(REPLAYS, name)
    if name not in REPLAYS and waiting and (replay is None or name in NOT_YET):
        pytest.skip(f"not built yet: {waiting}")
    assert replay is not None, f"no replay is mapped to the recorded case {name}"
    case = Case.read(FOLDER, name)
    replay(case)
    later = next((patterns for key, patterns in NOT_YET_OUTPUTS.items() if fnmatch(name, key)), ())
    left = [key for key in case.unchecked() if not any(fnmatch(key, pattern) for pattern in later)]
    assert not left, f"{name}: recorded outputs that nothing compared: {left}"
