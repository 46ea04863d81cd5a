"""Floor 1: the objective and its branches."""

from .branch import Branch
from .dense import DenseBranch
from .objective import Losses, Objective

__all__ = ["Branch", "DenseBranch", "Losses", "Objective"]
