"""Replays what belongs to semantic segmentation: BiSeNet's modules, OHEM, and mIoU by both references."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bifocals.evaluate import Confusion, confusion_matrix
from bifocals.losses import OHEM
from bifocals.networks import AttentionRefinement, FeatureFusion

from .case import Case

# The original's names of layers, and ours.
NAMES = {"convblk": "conv", "conv_atten": "attention", "bn_atten": "attention_bn"}


def _loaded(case: Case, module: nn.Module, names: dict[str, str]) -> nn.Module:
    """The module with the recorded weights, in the recorded mode."""
    state: dict[str, Tensor] = {}
    for key in case.arrays:
        if key.startswith("w_"):
            first, *rest = key.removeprefix("w_").split("__")
            state[".".join([names.get(first, first), *rest])] = case.input(key)
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.eps == case.hyper["bn_eps"]
    return module.train(case.hyper["mode"] == "train")


def attention_refinement(case: Case) -> None:
    channels, in_channels = case.arrays["w_conv__conv__weight"].shape[:2]
    module = _loaded(case, AttentionRefinement(in_channels, channels), NAMES)
    x = case.input("x").requires_grad_()
    y = module(x)
    (y * case.input("cotangent")).sum().backward()
    case.check("y", y)
    case.check("grad_x", x.grad)


def feature_fusion(case: Case) -> None:
    channels, in_channels = case.arrays["w_convblk__conv__weight"].shape[:2]
    names = {**NAMES, "conv": "attention", "bn": "attention_bn"}
    module = _loaded(case, FeatureFusion(in_channels, channels), names)
    case.check("y", module(case.input("x_spatial"), case.input("x_context")))


def ohem(case: Case) -> None:
    hyper = case.hyper
    share = int(hyper["n_min"].rsplit("// ", 1)[1])
    logits = case.input("logits").requires_grad_()
    loss = OHEM(hyper["thresh"], 1 / share, ignore=hyper["ignore"])(logits, case.input("labels"))
    loss.backward()
    case.check("loss", loss)
    case.check("grad_logits", logits.grad)


def miou(case: Case) -> None:
    num_classes = int(case.input("num_classes"))
    rows = zip(case.input("label").to(torch.uint8), case.input("pred").to(torch.uint8), strict=True)
    counts = torch.stack([confusion_matrix(label, predicted, num_classes) for label, predicted in rows]).sum(0)
    case.check("confusion", counts)
    exact, release = Confusion(counts), Confusion(counts, "plus_one")
    for name, value in (("iou", exact.iou), ("dice", exact.dice), ("aacc", exact.pixel_accuracy),
                        ("miou", exact.miou)):
        case.check(f"mmseg_{name}", value)
    accuracy = case.output("mmseg_acc")
    torch.testing.assert_close(exact.accuracy.to(accuracy.dtype), accuracy, rtol=0, atol=case.tolerance()[1],
                               equal_nan=True)
    for name, value in (("iou", release.iou), ("miou", release.miou), ("fw_miou", release.frequency_weighted_iou),
                        ("macro_f1", release.macro_f1), ("micro_f1", release.micro_f1)):
        case.check(f"bisenet_{name}", value)
