"""Floor 4: recipes, one function a paper, the only place where the rooms meet."""

from .atss import atss
from .date import date
from .defcn import defcn
from .fcos import fcos
from .freeanchor import freeanchor
from .hcral import hcral
from .mal import mal
from .onenet import onenet
from .retinanet import retinanet

__all__ = ["atss", "date", "defcn", "fcos", "freeanchor", "hcral", "mal", "onenet", "retinanet"]
