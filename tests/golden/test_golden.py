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

from . import (
    anchors,
    assigners,
    atss,
    box_losses,
    branches,
    crowd,
    defcn,
    detections,
    losses,
    multiple_anchor,
    pixels,
    proposals,
    star,
    voc,
)
from .case import Case

SHARED = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2].parent / "shared"))
FOLDER = Path(os.environ.get("BIFOCALS_GOLDEN", SHARED / "golden"))

REPLAYS: dict[str, Callable[[Case], None]] = {
    "anchors/points_*": anchors.points,
    "anchors/*_anchors": anchors.anchors,
    "anchors/mal_legacy_anchors": anchors.legacy,
    "assign_maxiou/*": assigners.max_iou,
    "box_coder/delta_xywh_*": anchors.deltas,
    "assign_fcos/*": assigners.fcos,
    "assign_poto/*": defcn.poto,
    "assign_pred/hungarian*": assigners.hungarian,
    "losses/sigmoid_focal_*": losses.focal,
    "losses/iou_*": losses.iou("linear"),
    "losses/giou*": losses.iou("giou"),
    "losses/diou*": losses.iou("diou"),
    "losses/ciou_torchvision": losses.iou("ciou"),
    "losses/ciou_mmdet": losses.iou("ciou_gated"),
    "losses/ciou_wiourepo": losses.iou("ciou_wise"),
    "losses/eiou_zhang_formula": losses.iou("eiou"),
    "losses/eiou_wiourepo": losses.iou("eiou_wise"),
    "losses/extended_eiou_mmdet": losses.iou("extended_eiou"),
    "losses/focal_eiou_*": losses.iou("focal_eiou"),
    "losses/siou": losses.iou("siou_mmdet"),
    "losses/alpha_iou_*": losses.iou("alpha_iou"),
    "losses/alpha_giou_*": losses.iou("alpha_giou"),
    "losses/alpha_diou_*": losses.iou("alpha_diou"),
    "losses/alpha_ciou_*": losses.iou("alpha_ciou"),
    "losses/wiou_v3": box_losses.wise_iou,
    "losses/l1": box_losses.smooth_l1,
    "losses/smooth_l1_*": box_losses.smooth_l1,
    "losses/balanced_l1*": box_losses.balanced_l1,
    "losses/dfl": box_losses.distribution,
    "losses/quality_focal": losses.quality_focal,
    "losses/varifocal_*": losses.varifocal,
    "losses/ghmc_*": losses.ghm,
    "losses/dr_loss": losses.dr,
    "box_coder/distance_point": box_losses.distances,
    "assign_atss/*": atss.assigner,
    "branch_loss/atss": atss.head,
    "branch_loss/fcos_*": branches.fcos,
    "branch_loss/retinanet_*": branches.retina,
    "branch_loss_date/o2m_retina": branches.retina,
    "branch_loss/onenet_original": branches.onenet_original,
    "branch_loss_date/o2m_fcos": branches.date_fcos,
    "branch_loss_date/o2o_poto": branches.date_one2one,
    "branch_loss_date/o2o_onenet_cost": branches.date_one2one,
    "branch_loss_date/o2o_poto_3dmf": defcn.one2one_filtered,
    "modules/max_filtering": defcn.max_filtering,
    "branch_loss/freeanchor": multiple_anchor.freeanchor,
    "branch_loss/mal_released": multiple_anchor.released,
    "losses/freeanchor_bag": multiple_anchor.bag,
    "modules/mal_ratio_schedule": multiple_anchor.schedules,
    "modules/mal_depression_masks": multiple_anchor.masks,
    "postprocess/date_o2o_*": detections.postprocess,
    "postprocess/fcos*": detections.postprocess,
    "postprocess/retinanet": detections.postprocess,
    "postprocess/atss": detections.postprocess,
    "modules/star_offset_*": star.offsets,
    "branch_loss/vfnet": star.head,
    "postprocess/vfnet": star.postprocess,
    "postprocess/rpn*": proposals.proposals,
    "metrics/coco_ap*": detections.coco_ap,
    "metrics/crowdhuman": crowd.crowdhuman,
    "metrics/voc_ap*": voc.voc_ap,
    "modules/bisenet_arm_*": pixels.attention_refinement,
    "modules/bisenet_ffm_*": pixels.feature_fusion,
    "losses/ohem_ce_*": pixels.ohem,
    "metrics/miou": pixels.miou,
}

# Cases whose method is not built yet, and the outputs of built cases that belong to such a method.
NOT_YET = {
    "assign_pred/simota": "SimOTA",
    "assign_pred/tal": "task-aligned assignment",
    "modules/*": "elastic modules",
    "search/*": "architecture search",
}
NOT_YET_OUTPUTS: dict[str, tuple[str, ...]] = {
    # Two schedules of MAL's release that depress more than all pixels, which its own code cannot run.
    "modules/mal_ratio_schedule": ("ratio_type3", "ratio_type7"),
}


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
