"""The contract of each slot as an importable test suite: run it on your own part before you train with it.

Every function returns the names of the properties that hold and raises `ContractError` at the first that does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bifocals.structures import (
    Assigner,
    Balancer,
    BatchAssigner,
    DenseOutput,
    Loss,
    Match,
    Matched,
    RoIOutput,
    Target,
    Watching,
)

from .scene import SIZE_HW, scene_matched, scene_output, scene_target


class ContractError(ValueError):
    """A part breaks the contract of its slot."""


def _require(who: object, holds: bool, expected: str, got: object) -> None:
    if not holds:
        name = getattr(who, "__name__", type(who).__name__)
        raise ContractError(f"{name} breaks its contract: expected {expected}, got {got}.")


def check_assigner(assigner: Assigner) -> list[str]:
    """Valid pairs, an empty image without pairs, the same pairs for permuted objects, alone and in a batch."""
    output = scene_output(3)
    targets = [scene_target(6), scene_target(0), scene_target(2, seed=5)]
    matches = [_match(assigner, output, i, t) for i, t in enumerate(targets)]
    _require(assigner, len(matches[1].prior) == 0, "no pair in an image without objects", len(matches[1].prior))
    held = ["pairs are valid", "an empty image has no pairs"]

    again = _match(assigner, output, 0, targets[0])
    _require(assigner, _pairs(again) == _pairs(matches[0]), "the same pairs when called again", "others")
    held.append("called twice, the same pairs")

    order = torch.tensor([3, 5, 0, 4, 1, 2])
    shuffled = replace(targets[0], boxes=targets[0].boxes[order], labels=targets[0].labels[order])
    permuted = _match(assigner, output, 0, shuffled)
    _require(assigner, _pairs(permuted, order) == _pairs(matches[0]),
             "the same pairs when the objects come in another order", f"{_pairs(permuted, order)} and "
             f"{_pairs(matches[0])}")
    held.append("the order of objects does not matter")

    if isinstance(assigner, BatchAssigner):
        together = assigner.batch(output.priors, targets, output.detach())
        for i, match in enumerate(matches):
            _require(assigner, _pairs(together.of_image(i)) == _pairs(match),
                     f"batch() to give image {i} the pairs that it has alone", _pairs(together.of_image(i)))
        held.append("a batch equals its images one by one")
    return held


def _match(assigner: Assigner, output: DenseOutput, image: int, target: Target) -> Match:
    before = output.logits.detach().clone(), target.boxes.clone()
    match = assigner(output.priors, target, output.prediction(image))
    _require(assigner, isinstance(match, Match), "a Match", type(match).__name__)
    untouched = torch.equal(output.logits, before[0]) and torch.equal(target.boxes, before[1])
    _require(assigner, untouched, "its inputs left as they were", "changed predictions or boxes")
    for name, index, size in (("prior", match.prior, len(output.priors)), ("gt", match.gt, len(target.labels))):
        _require(assigner, index.dtype == torch.int64 and index.ndim == 1, f"int64 {name} [M]",
                 f"{index.dtype} {tuple(index.shape)}")
        valid = len(index) == 0 or (int(index.min()) >= 0 and int(index.max()) < size)
        _require(assigner, valid, f"{name} from 0 to {size - 1}", index.tolist()[:10])
    _require(assigner, len(match.prior) == len(match.gt), "as many priors as objects in the pairs",
             (len(match.prior), len(match.gt)))
    _require(assigner, len(set(_pairs(match))) == len(match.prior), "each pair once", "a pair twice")
    if match.ignore is not None:
        ok = match.ignore.dtype == torch.bool and match.ignore.shape == (len(output.priors),)
        _require(assigner, ok, f"bool ignore [{len(output.priors)}]",
                 f"{match.ignore.dtype} {tuple(match.ignore.shape)}")
    return match


def _pairs(match: Match, order: Tensor | None = None) -> list[tuple[int, int]]:
    gt = match.gt if order is None else order[match.gt]
    return sorted(zip(match.prior.tolist(), gt.tolist(), strict=True))


def check_loss(make_loss: Callable[[], Loss]) -> list[str]:
    """A finite scalar with a finite gradient, also without objects; and it decides by the matched view alone.

    `make_loss` builds a fresh loss for each property, so that state of one does not leak into the next.
    """
    loss = make_loss()
    value, gradients = _value_and_gradients(loss, scene_matched((4, 2)))
    _require(loss, any(bool(g.abs().sum() > 0) for g in gradients), "a gradient for some prediction", "none")
    held = ["a finite scalar with gradient"]

    empty, gradients = _value_and_gradients(make_loss(), scene_matched((0, 0)))
    _require(loss, bool(empty >= 0), "0 or more without any object", float(empty))
    held.append("finite without objects, graph kept")

    again, _ = _value_and_gradients(make_loss(), scene_matched((4, 2)))
    _require(loss, torch.equal(value, again), "the same value when built and called again", float(again))
    held.append("called twice, the same value")

    if isinstance(loss, nn.Module):
        other = make_loss()
        assert isinstance(other, nn.Module)
        other.load_state_dict(loss.state_dict())
        first, _ = _value_and_gradients(loss, scene_matched((3, 1), seed=7))
        second, _ = _value_and_gradients(other, scene_matched((3, 1), seed=7))
        _require(loss, torch.equal(first, second), "the same value after its state was saved and loaded",
                 (float(first), float(second)))
        held.append("its state dict holds its state")
    return held


def _value_and_gradients(loss: Loss, matched: Matched) -> tuple[Tensor, list[Tensor]]:
    value = loss(matched)
    _require(loss, isinstance(value, Tensor) and value.shape == (), "a scalar tensor", getattr(value, "shape", value))
    _require(loss, bool(torch.isfinite(value)), "a finite value", float(value.detach()))
    _require(loss, value.requires_grad, "a value that carries gradient", "one that does not")
    value.backward()
    output = matched.output
    leaves = [t for t in (output.logits, output.boxes, output.deltas, output.quality) if t is not None]
    gradients = [t.grad for t in leaves if t.grad is not None]
    for gradient in gradients:
        _require(loss, bool(torch.isfinite(gradient).all()), "finite gradients", "some that are not")
    return value.detach(), gradients


def check_balancer(make_balancer: Callable[[], Balancer], names: Sequence[str] = ("cls", "box")) -> list[str]:
    """Keeps the names, passes gradient, learns from `observe` alone, and its state survives save and load.

    names: the losses of the branch it is meant for.
    """
    balancer = make_balancer()
    raw = _raw(names, 1.0)
    weighted = balancer(raw)
    _require(balancer, list(weighted) == list(names), f"weighted losses {list(names)}", list(weighted))
    torch.stack(list(weighted.values())).sum().backward()
    gradients = [t.grad for t in raw.values()]
    finite = all(g is not None and bool(torch.isfinite(g)) for g in gradients)
    _require(balancer, finite, "a finite gradient for each loss", gradients)
    held = ["keeps the names", "passes gradient"]
    _require(balancer, _weights(balancer, names) == _weights(balancer, names),
             "the same weights when called twice without observe", "others")
    held.append("weighing changes nothing")
    _observe(balancer, names, range(5))
    held.append("observes")
    if isinstance(balancer, nn.Module):
        other = make_balancer()
        assert isinstance(other, nn.Module)
        other.load_state_dict(balancer.state_dict())
        _require(balancer, _weights(other, names) == _weights(balancer, names),
                 "the same weights after its state was saved and loaded", "others")
        for one in (balancer, other):
            _observe(one, names, range(5, 9))
        _require(balancer, _weights(other, names) == _weights(balancer, names),
                 "the same weights some steps after its state was saved and loaded", "others")
        held.append("its state dict holds its state")
    return held


def _observe(balancer: Balancer, names: Sequence[str], steps: range) -> None:
    for step in steps:
        if isinstance(balancer, Watching):
            balancer.watch(scene_matched((4, 2), seed=step))
        balancer.observe({n: t.detach() for n, t in _raw(names, 1.0 + step).items()})


def _raw(names: Sequence[str], scale: float) -> dict[str, Tensor]:
    return {n: torch.tensor(scale * (i + 1), requires_grad=True) for i, n in enumerate(names)}


def _weights(balancer: Balancer, names: Sequence[str]) -> list[float]:
    return [float(t.detach()) for t in balancer(_raw(names, 1.0)).values()]


def check_network(make_network: Callable[[], nn.Module]) -> list[str]:
    """Named outputs of agreeing shapes, a batch of two equals two of one, every learning parameter gets gradient."""
    network: Any = make_network().eval()
    images = torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = network(images)
        apart = [network(images[i : i + 1]) for i in range(2)]
    _require(network, isinstance(together, dict) and bool(together), "a dict of named outputs", type(together).__name__)
    for name, output in together.items():
        _require_shapes(network, name, output)
        for i in range(2):
            gap = _gap(_of_image(output, i), _of_image(apart[i][name], 0))
            _require(network, gap < 1e-2, "a batch of two to equal two of one", f"a difference of {gap:.2g}")
    held = ["outputs have agreeing shapes", "a batch of two equals two of one"]

    network = make_network().train()
    outputs = network(images, [scene_target(4), scene_target(3, seed=5)])
    torch.stack([tensor.sum() for output in outputs.values() for tensor in _learned(output)]).sum().backward()
    idle = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    _require(network, not idle, "every parameter that learns to be used (or DDP waits for it)", idle[:5])
    held.append("every learning parameter is used")
    return held


def _require_shapes(network: object, name: str, output: object) -> None:
    if isinstance(output, DenseOutput):
        num = len(output.priors)
        shapes = (tuple(output.logits.shape[:2]), tuple(output.boxes.shape), tuple(output.deltas.shape[:2]))
        _require(network, shapes == ((2, num), (2, num, 4), (2, num)),
                 f"logits [2, {num}, C], boxes [2, {num}, 4], deltas [2, {num}, *]", shapes)
        _require(network, sum(output.priors.level_sizes) == num, f"levels that sum to {num} priors",
                 output.priors.level_sizes)
    elif isinstance(output, RoIOutput):
        num, classes = len(output.rois), output.num_classes
        got = (tuple(output.logits.shape), tuple(output.deltas.shape), tuple(output.image.shape))
        _require(network, got == ((num, classes + 1), (num, classes, 4), (num,)),
                 f"logits [{num}, {classes + 1}], deltas [{num}, {classes}, 4], image [{num}]", got)
    else:
        _require(network, isinstance(output, Tensor) and output.ndim == 4 and len(output) == 2,
                 f"output {name!r} to be a DenseOutput, a RoIOutput or a map [2, C, h, w]",
                 getattr(output, "shape", type(output).__name__))


def _of_image(output: Any, image: int) -> list[Tensor]:
    """What an output says of one image."""
    if isinstance(output, DenseOutput):
        return [output.boxes[image], output.logits[image]]
    if isinstance(output, RoIOutput):
        mine = output.image == image
        return [output.rois[mine], output.logits[mine], output.deltas[mine]]
    return [output[image]]


def _gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return math.inf
    return max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(ours, theirs, strict=True))


def _learned(output: Any) -> list[Tensor]:
    """What of an output a loss may read."""
    if isinstance(output, Tensor):
        return [output]
    names = ("logits", "boxes", "quality") if isinstance(output, DenseOutput) else ("logits", "deltas", "mask_logits")
    return [tensor for name in names if (tensor := getattr(output, name)) is not None]
