"""Floor 4: recipes, one function a paper, the only place where the rooms meet."""

from .atss import atss
from .bisenet import bisenet
from .date import date
from .defcn import defcn
from .double_head_rcnn import double_head_rcnn
from .dynamic_rcnn import dynamic_rcnn
from .faster_rcnn import faster_rcnn
from .fcos import fcos
from .freeanchor import freeanchor
from .hcral import hcral
from .libra_rcnn import libra_rcnn
from .mal import mal
from .mask_rcnn import mask_rcnn
from .onenet import onenet
from .retinanet import retinanet

__all__ = [
    "atss",
    "bisenet",
    "date",
    "defcn",
    "double_head_rcnn",
    "dynamic_rcnn",
    "faster_rcnn",
    "fcos",
    "freeanchor",
    "hcral",
    "libra_rcnn",
    "mal",
    "mask_rcnn",
    "onenet",
    "retinanet",
]
