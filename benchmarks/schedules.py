"""Draws what changed with the clock in a run, as its log has it: a small SVG for the results pages.

    python benchmarks/schedules.py runs/bccd/mal_paper-0 docs/results/mal/schedules.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bifocals.train import read_log

WIDTH, HEIGHT, LEFT, TOP, GAP = 620, 120, 70, 26, 46
COLORS = ("#2563eb", "#d97706", "#059669")


def panel(name: str, steps: list[int], values: list[float], top: int, color: str) -> list[str]:
    """One curve with its axis: steps to the right, from 0 to its largest value up."""
    highest, last = max([*values, 1e-9]), steps[-1]
    places = [(LEFT + WIDTH * s / last, top + HEIGHT * (1 - v / highest)) for s, v in zip(steps, values, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in places]
    bottom = top + HEIGHT
    return [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{name}</text>',
        f'<path d="M{LEFT} {top}V{bottom}H{LEFT + WIDTH}" fill="none" stroke="#888"/>',
        f'<text x="{LEFT - 6}" y="{top + 5}" text-anchor="end">{highest:g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 16}" text-anchor="end">step {last}</text>',
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>', *dots,
    ]


def draw(workdir: Path) -> str:
    """ValueError if nothing in the run changed with the clock."""
    rows = [r for r in read_log(workdir) if r["kind"] == "train" and r.get("scheduled")]
    if not rows:
        raise ValueError(f"schedules expected a log with values under 'scheduled', got none in {workdir}.")
    names = list(rows[0]["scheduled"])
    steps, shapes, top = [r["step"] for r in rows], [], TOP
    for i, name in enumerate(names):
        shapes += panel(name, steps, [r["scheduled"][name] for r in rows], top, COLORS[i % len(COLORS)])
        top += HEIGHT + GAP
    size = f'width="{LEFT + WIDTH + 20}" height="{top}"'
    title = f"<title>{', '.join(names)} in {workdir.name}, as logged</title>"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13" role="img">'
            f'{title}<rect width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("svg", type=Path)
    args = parser.parse_args()
    args.svg.parent.mkdir(parents=True, exist_ok=True)
    args.svg.write_text(draw(args.workdir), encoding="utf8")
    print(f"saved {args.svg}")


if __name__ == "__main__":
    main()
