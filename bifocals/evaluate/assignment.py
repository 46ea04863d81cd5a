"""Which priors each assigner takes for each object of one image, and how much the losses let each pair count.

Letters: P priors, G objects, M pairs of one assigner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from bifocals.assign import EATSS
from bifocals.data import collate
from bifocals.losses import PairFactors, Weighing
from bifocals.objective import DenseBranch, Objective
from bifocals.structures import Assigner, BatchAssigner, DenseOutput, Match, Matched, Matches, Priors, Target

from .rivals import Rival, describe, priors_for, same_places


@dataclass(frozen=True, eq=False)
class Choice:
    """What one assigner takes.

    name: of the branch, or of the rival. own: whether it is a branch of the experiment itself. assigner: its class,
    with what is not at its default. output: the output of the network whose predictions were looked at. priors: those
    that the assigner saw, and what they are, in words. extra: pairs that EATSS adds to those of ATSS.
    score, iou: probability of the object's class, and IoU of the predicted box with the object; None where the priors
    are not those of a prediction. factors: of each loss of the branch that tells (`Weighing`), by its name.
    """

    name: str
    own: bool
    assigner: str
    output: str
    priors: Priors
    prior_words: str
    match: Match
    extra: Bool[Tensor, "M"]
    score: Float[Tensor, "M"] | None = None
    iou: Float[Tensor, "M"] | None = None
    factors: Mapping[str, PairFactors] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.match.prior)

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.name}: {self.assigner}" if self.own else self.assigner

    @property
    def level(self) -> Int64[Tensor, "M"]:
        """Number of the level of each pair, fine first."""
        return self.priors.level_index()[self.match.prior]

    def per_object(self, num_objects: int) -> list[int]:
        """Pairs of each object."""
        return torch.bincount(self.match.gt, minlength=num_objects).tolist()

    def per_level(self) -> list[int]:
        """Pairs of each level."""
        return torch.bincount(self.level, minlength=len(self.priors.level_sizes)).tolist()

    def without(self, num_objects: int) -> list[int]:
        """Objects that no prior answers for."""
        return [number for number, count in enumerate(self.per_object(num_objects)) if count == 0]

    def class_weight(self) -> Float[Tensor, "M"] | None:
        """The whole weight of each pair in the loss `cls`, else in the first loss that tells; None where none does."""
        telling = {name: found for name, found in self.factors.items() if found.factors}
        if not telling:
            return None
        return telling.get("cls", next(iter(telling.values()))).weight

    def to_json(self, num_objects: int) -> dict[str, Any]:
        """Everything by name, lengths in pixels of the image as the network sees it."""
        priors, match = self.priors, self.match
        columns: dict[str, list[Any]] = {
            "object": match.gt.tolist(),
            "prior": match.prior.tolist(),
            "point": [_rounded(point) for point in priors.points[match.prior].tolist()],
            "level": self.level.tolist(),
            "stride": _rounded(priors.strides[match.prior].tolist()),
            "anchor": [None] * len(self) if priors.boxes is None
            else [_rounded(box) for box in priors.boxes[match.prior].tolist()],
            "is_extra": self.extra.tolist(),
            "score": [None] * len(self) if self.score is None else _rounded(self.score.tolist()),
            "iou": [None] * len(self) if self.iou is None else _rounded(self.iou.tolist()),
        }
        pairs: list[dict[str, Any]] = [dict(zip(columns, row, strict=True))
                                       for row in zip(*columns.values(), strict=True)]
        for loss, found in self.factors.items():
            named = {**found.factors, **found.details} | ({"weight": found.weight} if found.factors else {})
            for name, values in named.items():
                for pair, value in zip(pairs, _rounded(values.tolist()), strict=True):
                    pair.setdefault("weights", {}).setdefault(loss, {})[name] = value
        return {
            "name": self.name,
            "own": self.own,
            "assigner": self.assigner,
            "output": self.output,
            "priors": {"kind": self.prior_words, "count": len(priors), "level_sizes": list(priors.level_sizes),
                       "strides": _rounded([float(priors.strides[i]) for i in priors.level_starts])},
            "counts": {"pairs": len(self), "extras": int(self.extra.sum()), "per_object": self.per_object(num_objects),
                       "per_level": self.per_level()},
            "objects_without": self.without(num_objects),
            "pairs": pairs,
        }


@dataclass(frozen=True, eq=False)
class ImageAssignment:
    """One image, its objects, and what the assigners take for them.

    image: as the network sees it, un-padded. target: its objects, in pixels of it, without crowd regions, which are in
    `target.regions`. left_out: a sentence for each assigner or branch that is not there.
    """

    image: UInt8[Tensor, "3 h w"]
    target: Target
    choices: tuple[Choice, ...]
    left_out: tuple[str, ...] = ()

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Everything by name but the pixels."""
        target, (scale_x, scale_y, _, _) = self.target, self.target.scale_xyxy
        rows = zip(target.boxes.tolist(), target.labels.tolist(), strict=True)
        return {
            "image_id": target.image_id,
            "size_hw": list(target.size_hw),
            "original_hw": list(target.original_hw),
            "scale_xy": [scale_x, scale_y],
            "objects": [{"object": number, "box": _rounded(box), "label": label, "class": classes[label]}
                        for number, (box, label) in enumerate(rows)],
            "crowd_regions": [_rounded(box) for box in target.regions.tolist()],
            "assigners": [choice.to_json(len(target.labels)) for choice in self.choices],
            "left_out": list(self.left_out),
        }


def inspect_assignment(
    network: nn.Module,
    objective: Objective,
    image: UInt8[Tensor, "3 h w"],
    target: Target,
    *,
    output: str,
    own: bool = True,
    rivals: Mapping[str, Rival] | None = None,
    drop_equal: bool = False,
    copies: int = 1,
) -> ImageAssignment:
    """Lets the branches of an objective, and rivals of theirs, assign the objects of one image.

    image, target: through the evaluation transform. output: the output of the network whose priors and predictions the
    rivals get. own: whether the branches of the objective take part. drop_equal: leave a rival out that takes the very
    pairs of a branch by the same assigner. copies: images of a training step, see `Weighing`.

    Nothing changes by looking: network and objective run in evaluation mode and are then in the mode they were in, and
    no loss counts what it saw. A part that does not suit the network or the image is left out and named. ValueError if
    the network has no such output.
    """
    batch = collate([(image, target)], int(getattr(network, "size_divisor", 1)))
    target = target.without_crowd()
    # Some assigners sample; what they draw is not to change the caller's random numbers.
    with _evaluation_mode(network), _evaluation_mode(objective), torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = network(batch.images)
        if output not in outputs:
            raise ValueError(f"inspect_assignment expected an output of {sorted(outputs)}, got {output!r}.")
        look = _Look(outputs, target, objective, copies)
        if own:
            for name in objective.branches:
                look.own(name)
        seen = look.dense(output) if rivals else output
        for name, rival in (rivals or {}).items():
            look.rival(name, rival, seen, drop_equal)
    return ImageAssignment(image, target, tuple(look.choices), tuple(look.left_out))


class _Look:
    """Collects what the assigners take."""

    def __init__(
        self, outputs: Mapping[str, Any], target: Target, objective: Objective, copies: int
    ) -> None:
        self.outputs, self.target, self.copies = outputs, target, copies
        self.branches = dict(objective.branches.items())
        self.choices: list[Choice] = []
        self.left_out: list[str] = []
        self._assigners: list[Assigner] = []

    def dense(self, output: str) -> str:
        """The named output where it is dense, else the first that is, which is said."""
        found = [name for name, value in self.outputs.items() if isinstance(value, DenseOutput)]
        if output in found or not found:
            return output
        self.left_out.append(f"output {output}: it has no priors of a pyramid, so that others look at {found[0]}")
        return found[0]

    def own(self, name: str) -> None:
        """A branch of the objective."""
        branch = self.branches[name]
        source = getattr(branch, "source", None) or name
        seen = self.outputs.get(source)
        if not isinstance(branch, DenseBranch) or not isinstance(seen, DenseOutput):
            self.left_out.append(f"branch {name}: it is not a dense branch, whose assigner takes priors of the pyramid")
            return
        match = branch.match(seen, [self.target]).of_image(0)
        self._add(name, True, branch.assigner, source, seen, seen.priors, "the network's own", match, branch)

    def rival(self, name: str, rival: Rival, output: str, drop_equal: bool) -> None:
        """An assigner of somebody else on the priors, and where they are the same places the predictions, of `output`.
        """
        seen = self.outputs[output]
        if not isinstance(seen, DenseOutput):
            self.left_out.append(f"{name}: the output {output} is not dense")
            return
        try:
            branch = next((b for n, b in self.branches.items()
                           if isinstance(b, DenseBranch) and (b.source or n) == output), None)
            priors, words = priors_for(rival.priors, seen.priors)
            match = _match(rival.assigner, priors, *_seen_by(branch, seen, self.target))
        except ValueError as error:
            self.left_out.append(f"{name}: {error}")
            return
        if drop_equal and (twin := self._twin(rival.assigner, match, priors)):
            self.left_out.append(f"{name}: it takes what {twin} takes")
            return
        aligned = same_places(priors, seen.priors)
        self._add(name, False, rival.assigner, output, seen if aligned else None, priors, words, match, branch)

    def _twin(self, assigner: Assigner, match: Match, priors: Priors) -> str | None:
        for mine, choice in zip(self._assigners, self.choices, strict=True):
            if mine == assigner and same_places(priors, choice.priors) and _pairs(match) == _pairs(choice.match):
                return choice.title
        return None

    def _add(
        self, name: str, own: bool, assigner: Assigner, output: str, seen: DenseOutput | None, priors: Priors,
        words: str, match: Match, branch: DenseBranch | None,
    ) -> None:
        extra = torch.zeros(len(match.prior), dtype=torch.bool)
        if isinstance(assigner, EATSS):
            plain = _pairs(assigner.atss(priors, self.target))
            extra = torch.tensor([pair not in plain for pair in _pair_list(match)], dtype=torch.bool)
        score = iou = None
        factors: dict[str, PairFactors] = {}
        if seen is not None:
            seen, target = _seen_by(branch, seen, self.target)
            matched = Matched(seen, [target], Matches.stack([match], len(priors)))
            score, iou = matched.probability, matched.iou
            factors = {} if branch is None else self._factors(name, branch, matched)
        self._assigners.append(assigner)
        self.choices.append(Choice(name, own, describe(assigner), output, priors, words, match, extra, score, iou,
                                   factors))

    def _factors(self, name: str, branch: DenseBranch, matched: Matched) -> dict[str, PairFactors]:
        found = {}
        for key, loss in branch.losses.items():
            if isinstance(loss, Weighing):
                try:
                    found[key] = loss.pair_factors(matched, self.copies)
                except ValueError as error:
                    self.left_out.append(f"weights of {name}/{key}: {error}")
        return {key: factors for key, factors in found.items() if factors.factors or factors.details}


def _seen_by(branch: DenseBranch | None, output: DenseOutput, target: Target) -> tuple[DenseOutput, Target]:
    """Output and objects as the losses of a branch see them."""
    if branch is not None and not branch.filtered:
        output = output.before_filter()
    if branch is not None and branch.class_agnostic:
        target = replace(target, labels=torch.zeros_like(target.labels))
    return output, target


def _match(assigner: Assigner, priors: Priors, seen: DenseOutput, target: Target) -> Match:
    """The pairs by the batch where the assigner has one, as in training."""
    if isinstance(assigner, BatchAssigner):
        return assigner.batch(priors, [target], seen.detach()).of_image(0)
    return assigner(priors, target, seen.prediction(0))


def _pair_list(match: Match) -> list[tuple[int, int]]:
    return list(zip(match.prior.tolist(), match.gt.tolist(), strict=True))


def _pairs(match: Match) -> set[tuple[int, int]]:
    return set(_pair_list(match))


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and after it each part in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _rounded(values: Sequence[float]) -> list[float | None]:
    """For a file: six digits that count; what is no finite number becomes None."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
