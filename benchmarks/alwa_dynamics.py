"""How alpha of ALWA moves: simulated, or as a run has logged its windows. Writes a small SVG.

    python benchmarks/alwa_dynamics.py docs/methods/alwa_feedback.svg              # three ratios, rules paper and raw
    python benchmarks/alwa_dynamics.py out.svg --run runs/faster-alwa --branch rpn # alpha, rho and raw losses of a run

The simulation has windows of 100 steps, class losses of 1 and box losses of rho, each with lognormal noise of .1. The
table that it prints is a mean over seeds; the picture shows the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bifocals.balance import ALWA, ALWARule
from bifocals.train import read_log

WIDTH, HEIGHT, LEFT, TOP, GAP = 620, 120, 70, 26, 50
RATIOS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "rho constant at 0.2": lambda t: np.full_like(t, 0.2),
    "rho falls from 0.4 to 0.1": lambda t: 0.4 - 0.3 * t,
    "rho rises from 0.1 to 0.4": lambda t: 0.1 + 0.3 * t,
}
RULES: tuple[ALWARule, ...] = ("paper", "raw")


@dataclass(frozen=True)
class Curve:
    """Values against steps; NaN where there is none."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: str
    dashed: bool = False


def simulate(
    ratio: Callable[[np.ndarray], np.ndarray], rule: ALWARule, windows: int, seed: int
) -> list[dict[str, float]]:
    """The windows of ALWA on drawn losses; that of the paper's first step left out."""
    count = 100 * windows + (rule == "paper")
    cls, box = np.exp(0.1 * np.random.default_rng(seed).standard_normal((2, count)))
    box = box * ratio(np.linspace(0, 1, count))
    balancer = ALWA(rule=rule)
    for c, r in zip(torch.from_numpy(cls), torch.from_numpy(box), strict=True):
        balancer.observe({"cls": c, "box": r})
    return balancer.drain()[-windows:]


def table(windows: int, seeds: int) -> str:
    """Mean of alpha, part of windows above .6 and mean step between windows, for each ratio and rule."""
    rows = ["| ratio | rule | mean alpha | above 0.6 | mean step | first eight |", "|---|---|---|---|---|---|"]
    for name, ratio in RATIOS.items():
        for rule in RULES:
            found = np.array([[row["alpha"] for row in simulate(ratio, rule, windows, s)] for s in range(seeds)])
            step = np.abs(np.diff(found, axis=1)).mean()
            first = " ".join(f"{a:.2f}" for a in found[0, :8])
            rows.append(f"| {name} | {rule} | {found.mean():.2f} | {(found > 0.6).mean():.2f} | {step:.2f} | {first} |")
    return "\n".join(rows)


def panel(title: str, curves: Sequence[Curve], top: int, highest: float | None = None) -> list[str]:
    """Curves over one axis, from 0 to the largest value or `highest`, with their names above at the right."""
    last = max(s for curve in curves for s in curve.steps)
    values = [v for curve in curves for v in curve.values if v == v]
    highest = max([*values, 1e-9]) if highest is None else highest
    bottom = top + HEIGHT
    shapes = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + WIDTH}" fill="none" stroke="#888"/>',
        f'<text x="{LEFT - 6}" y="{top + 5}" text-anchor="end">{highest:.3g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 16}" text-anchor="end">step {last:g}</text>',
    ]
    for i, curve in enumerate(reversed(curves)):
        points = [f"{LEFT + WIDTH * s / last:.1f},{top + HEIGHT * (1 - v / highest):.1f}"
                  for s, v in zip(curve.steps, curve.values, strict=True) if v == v]
        style = f'stroke="{curve.color}" stroke-width="1.5"' + (' stroke-dasharray="5 4"' if curve.dashed else "")
        shapes.append(f'<polyline points="{" ".join(points)}" fill="none" {style}/>')
        shapes.append(f'<text x="{LEFT + WIDTH - 110 * i}" y="{top - 8}" text-anchor="end" fill="{curve.color}">'
                      f"{curve.name}</text>")
    return shapes


def picture(title: str, panels: Sequence[tuple[str, Sequence[Curve], float | None]]) -> str:
    shapes, top = [], TOP
    for name, curves, highest in panels:
        shapes += panel(name, curves, top, highest)
        top += HEIGHT + GAP
    size = f'width="{LEFT + WIDTH + 20}" height="{top}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" role="img">'
            f'<title>{title}</title><rect width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>\n')


def draw_simulation(windows: int) -> str:
    panels = []
    for name, ratio in RATIOS.items():
        steps = [100.0 * (i + 1) for i in range(windows)]
        colors = {"paper": "#2563eb", "raw": "#d97706"}
        found = {rule: [row["alpha"] for row in simulate(ratio, rule, windows, 0)] for rule in RULES}
        curves = [Curve(f"rule {rule}", steps, found[rule], colors[rule]) for rule in RULES]
        middle = ratio((np.arange(windows) + 0.5) / windows).tolist()
        panels.append((name, [*curves, Curve("rho", steps, middle, "#111", dashed=True)], 1.0))
    return picture("alpha of ALWA after each window, by rule and course of rho", panels)


def draw_run(workdir: Path, branch: str) -> str:
    """ValueError if the run logged no windows of the branch."""
    logged = [r.get("windows", {}) for r in read_log(workdir) if r["kind"] == "train"]
    rows = [row for windows in logged for row in windows.get(branch, [])]
    if not rows or "alpha" not in rows[0]:
        known = sorted({name for windows in logged for name in windows})
        raise ValueError(f"alwa_dynamics expected windows of ALWA of branch {branch!r} in {workdir}, got windows of "
                         f"{known}.")
    steps = [row["step"] for row in rows]

    def curve(name: str, color: str, dashed: bool = False) -> Curve:
        return Curve(name, steps, [float("nan") if row[name] is None else row[name] for row in rows], color, dashed)

    return picture(f"ALWA of {branch} in {workdir.name}, as logged", [
        ("weight and ratio", [curve("alpha", "#2563eb"), curve("rho", "#111", dashed=True)], None),
        ("raw losses, mean", [curve("cls_mean", "#2563eb"), curve("reg_mean", "#059669")], None),
        ("raw losses, deviation", [curve("cls_std", "#2563eb"), curve("reg_std", "#059669")], None),
    ])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--run", type=Path, help="a work directory whose windows to draw")
    parser.add_argument("--branch", default="rpn")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.run is None:
        print(table(args.windows, args.seeds))
    text = draw_simulation(args.windows) if args.run is None else draw_run(args.run, args.branch)
    args.svg.parent.mkdir(parents=True, exist_ok=True)
    args.svg.write_text(text, encoding="utf8")
    print(f"saved {args.svg}")


if __name__ == "__main__":
    main()
