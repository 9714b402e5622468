import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pellucid.cli._chart import Sample, draw, thin_out

LOSSES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def samples(losses):
    best, made = math.inf, []
    for step, loss in enumerate(losses):
        best = min(best, loss)
        made.append(Sample(step=step, loss=loss, best_loss=best, trigger=f"t{step}"))
    return made


@given(LOSSES)
@example([5e-324])
def test_everything_lies_inside_the_frame(losses):
    chart = draw(samples(losses))
    assert chart is not None
    for point in chart.points:
        assert chart.left <= point.x <= chart.right
        assert chart.top <= point.y <= chart.bottom
        assert chart.left <= point.strip_from <= point.x + 0.1
    for tick in chart.y_ticks:
        assert chart.top <= tick.at <= chart.bottom
    for tick in chart.x_ticks:
        assert chart.left <= tick.at <= chart.right


@given(LOSSES)
def test_lower_losses_lie_lower(losses):
    chart = draw(samples(losses))
    assert chart is not None
    ordered = sorted(chart.points, key=lambda point: point.sample.loss)
    heights = [point.y for point in ordered]
    assert heights == sorted(heights, reverse=True)


@given(LOSSES)
@example([5e-324])
def test_strips_cover_the_width_without_gaps(losses):
    chart = draw(samples(losses))
    assert chart is not None
    assert chart.points[0].strip_from == chart.left
    for here, there in zip(chart.points, chart.points[1:], strict=False):
        assert here.strip_from + here.strip_width == pytest.approx(there.strip_from, abs=0.21)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=3000), st.integers(10, 60))
def test_thinning_keeps_ends_and_extremes(losses, limit):
    before = samples(losses)
    kept = thin_out(before, limit)
    assert len(kept) <= max(limit, 1)
    assert kept[0] == before[0]
    assert kept[-1] == before[-1]
    assert min(s.loss for s in kept) == min(losses)
    assert max(s.loss for s in kept) == max(losses)
    assert [s.step for s in kept] == sorted(s.step for s in kept)


def test_thinning_leaves_short_runs_alone():
    before = samples([3.0, 1.0, 2.0])
    assert thin_out(before, 3) == before


@pytest.mark.parametrize(("losses", "is_log"), [([9, 8], False), ([9, 0.1], True), ([9, 0], False)])
def test_wide_ranges_of_positive_losses_are_logarithmic(losses, is_log):
    chart = draw(samples(losses))
    assert chart is not None
    assert chart.is_log is is_log


def test_ticks_are_round():
    chart = draw(samples([7.3, 2.2, 1.1]))
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["0", "2", "4", "6", "8"]
    assert [tick.label for tick in chart.x_ticks] == ["0", "1", "2"]


def test_losses_that_are_not_finite_leave_a_gap():
    chart = draw(samples([5.0, math.inf, 3.0]))
    assert chart is not None
    assert [point.sample.step for point in chart.points] == [0, 2]
    assert not re.search("inf|nan", chart.loss_path + chart.best_path)
    assert draw(samples([math.inf])) is None
    assert draw([]) is None


def test_one_constant_loss_is_a_point():
    chart = draw(samples([2.0]))
    assert chart is not None
    assert len(chart.points) == 1
