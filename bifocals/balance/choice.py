"""The balancers by name: what a recipe's `balance` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from bifocals.structures import Balancer

from .alwa import ALWA, ALWARule
from .dtp import DTP, KPI
from .dwa import DWA
from .fixed import Fixed
from .guided import Guided, GuidedVariant
from .sides import Sides

BalanceName = Literal["recipe", "fixed", "alwa1", "alwa2", "dwa", "dtp", "guided"]


@dataclass(frozen=True)
class Balance:
    """How class losses are weighed against box losses. ValueError for values that cannot be meant.

    The recipe's own loss weights stay: a balancer sees losses that have them already.
    """

    name: BalanceName = "recipe"
    """recipe: its own weights; fixed: times `weights`; alwa1: ALWA by mean and deviation; alwa2: by deviation alone;
    dwa: dynamic weight averaging; dtp: dynamic task prioritization; guided: Guided Loss."""
    branches: tuple[str, ...] = ()
    """Branches to balance, as the log names them (rpn, roi, one2one); none: all that have class and box losses."""
    weights: tuple[float, float] = (1.0, 1.0)
    """Of class and box losses, for fixed."""
    rule: ALWARule = "paper"
    """Of alwa: paper and release record weighted losses, as published, and swing or freeze; raw records them without
    their weights, and alpha follows their ratio."""
    window: int = 100
    """Steps from one change of the weights to the next, for alwa and dwa (C of the paper)."""
    lambda0: float = 1.0
    """Weight of both sides, for alwa."""
    start_after: int = 0
    """Steps at the beginning that alwa does not look at, as in a warm-up."""
    updates: int | None = None
    """Changes of alpha after which alwa keeps it; 1 keeps what the first window asks for."""
    variant: GuidedVariant = "a"
    """Of guided: a, the ratio of each step; c, the ratio of the 100th step for good."""
    faithful: bool = False
    """dwa, dtp and guided as published, without the guards against overflow and division by zero."""

    def __post_init__(self) -> None:
        if self.name not in get_args(BalanceName):
            raise ValueError(f"Balance knows {get_args(BalanceName)}, got {self.name!r}.")
        if not all(0 <= w < float("inf") for w in self.weights):
            raise ValueError(f"Balance expected two weights of 0 or more, got {self.weights}.")
        self.build({}, ("cls", "box"))  # the balancer's own checks, before any data is read

    def build(self, base: Mapping[str, float], names: Iterable[str], kpi: KPI = "probability") -> Balancer:
        """The balancer of a branch: `base` its own weights, `names` its losses, `kpi` what dtp judges classes by."""
        sides = Sides(base=dict(base))
        match self.name:
            case "recipe":
                return Fixed(dict(base))
            case "fixed":
                cls, reg = sides.split(names)
                factor = dict.fromkeys(cls, self.weights[0]) | dict.fromkeys(reg, self.weights[1])
                return Fixed(dict(base) | {n: base.get(n, 1.0) * w for n, w in factor.items()})
            case "alwa1" | "alwa2":
                return ALWA("mean+std" if self.name == "alwa1" else "std", self.rule, self.window,
                            lambda0=self.lambda0, start_after=self.start_after, updates=self.updates, sides=sides)
            case "dwa":
                return DWA(self.window, faithful=self.faithful, sides=sides)
            case "dtp":
                return DTP(kpi, faithful=self.faithful, sides=sides)
            case "guided":
                return Guided(self.variant, faithful=self.faithful, sides=sides)
