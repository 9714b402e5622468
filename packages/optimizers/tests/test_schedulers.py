import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import ConstantScheduler, LinearScheduler


@given(st.integers(1, 50), st.integers(1, 200), st.data())
def test_decline_is_the_line_to_one_rounded_up(initial, total, data):
    start = data.draw(st.integers(0, total))
    scheduler = LinearScheduler(initial, total, start)
    for step in range(1, total + 3):
        if step <= start:
            expected = initial
        elif step >= total:
            expected = 1
        else:
            share = Fraction(step - start, total - start)
            expected = math.ceil(initial - (initial - 1) * share)
        assert scheduler.get_n_flip(step) == expected


@given(st.integers(1, 50), st.integers(1, 200), st.floats(0, 1))
def test_share_of_the_steps_is_a_step(initial, total, share):
    by_share = LinearScheduler(initial, total, share)
    by_step = LinearScheduler(initial, total, int(share * total))
    steps = range(1, total + 1)
    assert [by_share.get_n_flip(s) for s in steps] == [by_step.get_n_flip(s) for s in steps]


def test_whole_number_one_is_a_step_and_float_one_is_all():
    assert LinearScheduler(10, 10, 1).get_n_flip(9) == 2
    assert LinearScheduler(10, 10, 1.0).get_n_flip(9) == 10


def test_constant_is_constant():
    assert {ConstantScheduler(7).get_n_flip(step) for step in range(1, 99)} == {7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 1), "initial_n_flip"),
        ((5, 0, 0), "total_steps"),
        ((5, 10, 11), "decline_start must be a step up to total_steps=10, .* got 11"),
        ((5, 10, 1.5), "got 1.5"),
        ((5, 10, -1), "got -1"),
        ((5, 10, math.nan), "got nan"),
        ((5, 10, True), "got True"),
    ],
)
def test_senseless_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearScheduler(*arguments)


def test_constant_of_zero_is_refused():
    with pytest.raises(ValueError, match="n_flip must be a whole number of at least 1, got 0"):
        ConstantScheduler(0)
