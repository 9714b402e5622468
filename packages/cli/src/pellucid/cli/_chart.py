"""The geometry of a loss curve, ready to be drawn as SVG."""

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 44
_MAX_POINTS = 400
_WIDE = 30.0
"""From this ratio of the highest to the lowest loss on, the scale is logarithmic."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The loss after one step; step 0 is the initial trigger.

    Attributes:
        step: The step.
        loss: The loss of the trigger it ended with.
        best_loss: The lowest loss so far.
        trigger: The trigger.
    """

    step: int
    loss: float
    best_loss: float
    trigger: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: where it lies, in pixels, and what stands beside it."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A step in the picture, in pixels, with the width of the strip that shows it under a mouse."""

    x: float
    y: float
    strip_from: float
    strip_width: float
    sample: Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """A loss curve.

    Attributes:
        x_ticks: Marks of the horizontal axis, steps.
        y_ticks: Marks of the vertical axis, losses.
        is_log: Whether the vertical axis is logarithmic.
        loss_path: SVG path of the loss of each step.
        best_path: SVG path of the lowest loss so far.
        points: The steps, thinned out where there are more than a screen has room for.
    """

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_log: bool
    loss_path: str
    best_path: str
    points: tuple[Point, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def draw(samples: Sequence[Sample]) -> Chart | None:
    """Lay out a loss curve; None when there is no finite loss to show.

    Args:
        samples: In the order of their steps. Losses that are not finite leave a gap.
    """
    shown = thin_out([s for s in samples if math.isfinite(s.loss) and math.isfinite(s.best_loss)])
    if not shown:
        return None
    lowest = min(sample.best_loss for sample in shown)
    highest = max(sample.loss for sample in shown)
    is_log = lowest > 0 and highest / lowest >= _WIDE
    values = _log_ticks(lowest, highest) if is_log else _linear_ticks(lowest, highest)
    low, high = min(lowest, values[0]), max(highest, values[-1])
    to_y = _scale(low, high, HEIGHT - _BOTTOM, _TOP, is_log=is_log)
    first, last = shown[0].step, max(shown[-1].step, shown[0].step + 1)
    to_x = _scale(first, last, _LEFT, WIDTH - _RIGHT, is_log=False)
    steps = [value for value in _linear_ticks(first, last) if value == int(value)]
    return Chart(
        x_ticks=tuple(Tick(at=to_x(v), label=f"{int(v)}") for v in steps if first <= v <= last),
        y_ticks=tuple(Tick(at=to_y(v), label=f"{v:.6g}") for v in values),
        is_log=is_log,
        loss_path=_polyline([(to_x(s.step), to_y(s.loss)) for s in shown]),
        best_path=_staircase([(to_x(s.step), to_y(s.best_loss)) for s in shown]),
        points=_points(shown, to_x, to_y),
    )


def thin_out(samples: Sequence[Sample], limit: int = _MAX_POINTS) -> list[Sample]:
    """Return at most `limit` samples: first, last, and each stretch's lowest and highest."""
    if len(samples) <= limit:
        return list(samples)
    size = math.ceil((len(samples) - 2) / ((limit - 2) // 2))
    inner = samples[1:-1]
    kept = {samples[0].step: samples[0], samples[-1].step: samples[-1]}
    for start in range(0, len(inner), size):
        stretch = inner[start : start + size]
        for chosen in (min(stretch, key=_loss), max(stretch, key=_loss)):
            kept[chosen.step] = chosen
    return [kept[step] for step in sorted(kept)]


def _loss(sample: Sample) -> float:
    return sample.loss


def _scale(
    low: float, high: float, start: float, end: float, *, is_log: bool
) -> Callable[[float], float]:
    transform: Callable[[float], float] = math.log if is_log else float
    offset, span = transform(low), transform(high) - transform(low)

    def scale(value: float) -> float:
        share = (transform(value) - offset) / span if span else 0.5
        return round(start + share * (end - start), 1)

    return scale


def _linear_ticks(low: float, high: float) -> list[float]:
    """Return round values around an interval, four to eight of them."""
    span = high - low or abs(high) or 1.0
    # Of the smallest numbers there is no fifth.
    raw = max(span / 5, sys.float_info.min)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    size = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    first, last = math.floor(low / size), math.ceil(high / size)
    return [round(number * size, 12) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = math.ceil((last - first + 1) / 8)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    values = [f * 10.0**e for e in range(first, last + 1, stride) for f in factors]
    inside = [value for value in values if low <= value <= high]
    return inside or [low, high]


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _staircase(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    return f"M{x} {y}" + "".join(f"H{x}V{y}" for x, y in rest)


def _points(
    samples: Sequence[Sample], to_x: Callable[[float], float], to_y: Callable[[float], float]
) -> tuple[Point, ...]:
    xs = [to_x(sample.step) for sample in samples]
    # A strip ends half-way to the next point.
    middles = [(a + b) / 2 for a, b in itertools.pairwise(xs)]
    edges = [float(_LEFT), *middles, float(WIDTH - _RIGHT)]
    return tuple(
        Point(
            x=x,
            y=to_y(sample.loss),
            strip_from=round(start, 1),
            strip_width=round(end - start, 1),
            sample=sample,
        )
        for x, sample, start, end in zip(xs, samples, edges[:-1], edges[1:], strict=True)
    )
