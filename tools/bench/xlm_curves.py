"""A picture of learning curves, without any library."""

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH, HEIGHT, MARGIN = 720, 320, 44
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8f5fbf", "#b8860b", "#5c677d")


def draw(points: Iterable[Mapping[str, Any]]) -> str:
    """Return an SVG of values between 0 and 1 over steps, a line per run."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        curves.setdefault(point["run"], []).append((point["step"], point["value"]))
    last = max((step for curve in curves.values() for step, _ in curve), default=1.0)
    lines = [*_frame(last)]
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = " ".join(f"{_x(step, last):.1f},{_y(value):.1f}" for step, value in curve)
        lines.append(f'<polyline points="{places}" fill="none" stroke="{colour}"/>')
        top = MARGIN + 16 * index
        lines.append(f'<text x="{WIDTH - 150}" y="{top}" fill="{colour}">{name}</text>')
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" stroke-width="2">\n{body}\n</svg>\n'
    )


def _frame(last: float) -> list[str]:
    lines = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = _y(share), _x(share * last, last)
        lines.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - 160}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="#ddd" stroke-width="1"/>'
        )
        lines.append(f'<text x="8" y="{y + 4:.1f}" fill="#555">{share:.0%}</text>')
        lines.append(
            f'<text x="{x - 12:.1f}" y="{HEIGHT - 10}" fill="#555">{share * last:g}</text>'
        )
    return lines


def _x(step: float, last: float) -> float:
    return MARGIN + step / last * (WIDTH - 160 - MARGIN)


def _y(value: float) -> float:
    return HEIGHT - MARGIN - value * (HEIGHT - 2 * MARGIN)
