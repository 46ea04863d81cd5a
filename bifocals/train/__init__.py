"""Floor 3: the training loop, its checkpoints and its records."""

from .checkpoint import DamagedCheckpoint
from .experiment import Experiment
from .fit import fit, supervise
from .load import Trained, load
from .log import read_log
from .optimizer import Optim, build_optimizer, learning_rate_factor
from .provenance import Provenance, find_recipe, rebuild
from .run import Run
from .state import State
from .stop import EXIT_CODE, Interrupted
from .supervision import load_objective
from .transfer import Source, copy_weights, read_source

__all__ = [
    "EXIT_CODE",
    "DamagedCheckpoint",
    "Experiment",
    "Interrupted",
    "Optim",
    "Provenance",
    "Run",
    "Source",
    "State",
    "Trained",
    "build_optimizer",
    "copy_weights",
    "find_recipe",
    "fit",
    "learning_rate_factor",
    "load",
    "load_objective",
    "read_log",
    "read_source",
    "rebuild",
    "supervise",
]
