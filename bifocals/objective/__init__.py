"""Floor 1: the objective and its branches."""

from .branch import Branch
from .dense import DenseBranch
from .objective import Losses, Objective
from .pixel import PixelBranch
from .roi import MaskLoss, RoIBranch

__all__ = ["Branch", "DenseBranch", "Losses", "MaskLoss", "Objective", "PixelBranch", "RoIBranch"]
