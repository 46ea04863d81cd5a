"""Floor 1: balancers, which weigh the losses of a branch."""

from .alwa import ALWA, ALWARule
from .choice import Balance, BalanceName
from .dtp import DTP, KPI
from .dwa import DWA
from .fixed import Fixed
from .guided import Guided, GuidedVariant
from .sides import Sides
from .windows import Windows

__all__ = [
    "ALWA",
    "DTP",
    "DWA",
    "KPI",
    "ALWARule",
    "Balance",
    "BalanceName",
    "Fixed",
    "Guided",
    "GuidedVariant",
    "Sides",
    "Windows",
]
