"""What a run computes: the one thing that a recipe returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from bifocals.data import Data
from bifocals.objective import Objective

from .optimizer import Optim

TaskName = Literal["detect", "segment"]
"""What a network is for: boxes (and masks) of objects, or the class of every pixel."""


@dataclass(frozen=True)
class Experiment:
    """Network, objective, data and schedule. Networks and objectives are built by closures: no weights exist before
    the run. ValueError for values that cannot be run.
    """

    network: Callable[[int], nn.Module]
    """Number of classes -> network, with random weights that depend on torch's seed alone."""
    objective: Callable[[], Objective]
    """The supervision; stateful parts keep their state in buffers."""
    postprocess: Mapping[str, Any]
    """How the predictions of each output become results: of (output, targets), detections or a label map each image."""
    output: str
    """The output used for inference."""
    input: Any
    """Sizes and augmentation of images: an `Input`, of a segmenter a `MapInput`."""
    data: Data
    """Where the images are."""
    optim: Optim
    """How weights are learned."""
    epochs: float
    """Passes over the training set; a fraction is allowed."""
    start: Callable[[nn.Module], str] | None = None
    """What is done to the network before the first step, and said in a sentence: giving the body its weights. Not
    called when weights are loaded from a work directory for inference."""
    start_once: bool = False
    """A resumed run does not call `start` again: what it gave is in the checkpoint, and its source may be gone. Not for
    a start that also decides what learns."""
    task: TaskName = "detect"
    """Decides how the set is read and how the network is judged (`train/task.py`)."""
    masks: bool = False
    """The objective needs the masks of objects: a set without any is refused before the first step."""

    def __post_init__(self) -> None:
        if self.output not in self.postprocess:
            raise ValueError(f"Experiment expected postprocess for its output {self.output!r}, got it for "
                             f"{sorted(self.postprocess)}.")
        if self.task not in get_args(TaskName):
            raise ValueError(f"Experiment expected a task of {get_args(TaskName)}, got {self.task!r}.")
        if self.masks and self.task != "detect":
            raise ValueError(f"Experiment expected the task 'detect' beside masks of objects, got {self.task!r}.")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"Experiment expected a positive number of epochs, got {self.epochs}.")
