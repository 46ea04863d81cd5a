"""Floor 1: assigners, which say what prior answers for what object."""

from .fcos import FCOS
from .min_cost import MinCost
from .poto import POTO

__all__ = ["FCOS", "POTO", "MinCost"]
