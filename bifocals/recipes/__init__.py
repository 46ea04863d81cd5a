"""Floor 4: recipes, one function a paper, the only place where the rooms meet."""

from .date import date
from .fcos import fcos
from .onenet import onenet

__all__ = ["date", "fcos", "onenet"]
