"""Floor 1: assigners, which say what prior answers for what object."""

from .atss import ATSS
from .bags import Bags
from .dynamic import DynamicIoU
from .eatss import EATSS
from .fcos import FCOS
from .max_iou import MaxIoU
from .min_cost import MinCost
from .poto import POTO
from .poto_aux import POTOAux
from .sampled import BinRule, Sampled

__all__ = ["ATSS", "EATSS", "FCOS", "POTO", "Bags", "BinRule", "DynamicIoU", "MaxIoU", "MinCost", "POTOAux", "Sampled"]
