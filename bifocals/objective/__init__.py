"""Floor 1: the objective and its branches."""

from .dense import DenseBranch
from .objective import Losses, Objective

__all__ = ["DenseBranch", "Losses", "Objective"]
