"""Any experiment with other balancers on its branches: where `--balance` of a recipe ends."""

from __future__ import annotations

from dataclasses import replace

from bifocals.assign import Sampled
from bifocals.balance import KPI, Balance, Fixed, Sides
from bifocals.objective import Branch, Objective, RoIBranch
from bifocals.train import Experiment


def balanced(experiment: Experiment, balance: Balance) -> Experiment:
    """The experiment with the branches that `balance` names under its balancer; with the name recipe, as it is.

    The weights that the recipe gives its losses stay under the balancer. When the objective is built, at the start of a
    run: ValueError if `balance` names a branch that there is not, or one without class or box losses; or if no branch
    has both; or if the recipe itself has put something else than fixed weights on the branch.
    """
    if balance.name == "recipe":
        return experiment

    def objective() -> Objective:
        made = experiment.objective()
        for name in _chosen(made, balance):
            branch = made.branches[name]
            assert isinstance(branch, Branch)
            branch.balance = balance.build(_base(name, branch), tuple(branch.losses), _kpi(branch))
        return made

    return replace(experiment, objective=objective)


def _chosen(objective: Objective, balance: Balance) -> list[str]:
    """The branches to balance."""
    losses = {name: list(branch.losses) for name, branch in objective.branches.items() if isinstance(branch, Branch)}
    able = [name for name, names in losses.items() if Sides().has(names)]
    unknown = sorted(set(balance.branches) - set(losses))
    if unknown:
        raise ValueError(f"Balance expected branches of {list(losses)}, got {unknown}.")
    lacking = {name: names for name, names in losses.items() if name not in able}
    if balance.branches:
        lacking = {name: names for name, names in lacking.items() if name in balance.branches}
    if lacking and (balance.branches or not able):
        raise ValueError(f"Balance {balance.name!r} expected a branch with losses of classes and of boxes, got "
                         f"{lacking}.")
    return list(dict.fromkeys(balance.branches)) or able


def _kpi(branch: Branch) -> KPI:
    """What DTP judges the classes of a branch by: a head that sees all priors is right about nearly all of them."""
    if isinstance(branch, RoIBranch):
        return "softmax"
    return "accuracy" if isinstance(getattr(branch, "assigner", None), Sampled) else "probability"


def _base(name: str, branch: Branch) -> dict[str, float]:
    """The weights that the recipe gives the losses of a branch."""
    if branch.balance is None:
        return {}
    if not isinstance(branch.balance, Fixed):
        raise ValueError(f"Balance expected branch {name!r} with fixed weights, got "
                         f"{type(branch.balance).__name__}, which weighs already.")
    return dict(branch.balance.weights)
