import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.api import RetryPolicy
from pellucid.core import ArgumentError

counts = st.integers(1, 60)


@given(n_attempts=counts, seed=st.integers(0, 100))
def test_a_delay_doubles_up_to_the_longest_and_is_drawn_from_its_upper_half(n_attempts, seed):
    policy = RetryPolicy(first_delay_s=0.5, longest_delay_s=30)
    ceiling = min(30, 0.5 * 2 ** (n_attempts - 1))
    delay = policy.delay_s(n_attempts, None, random.Random(seed))
    assert ceiling / 2 <= delay <= ceiling


@given(n_attempts=counts, asked=st.floats(0, 1000), seed=st.integers(0, 100))
def test_what_a_server_asks_for_is_never_undercut(n_attempts, asked, seed):
    delay = RetryPolicy().delay_s(n_attempts, asked, random.Random(seed))
    assert asked <= delay <= 1.05 * asked


def test_clients_that_failed_together_do_not_come_back_together():
    chance = random.Random(0)
    assert len({RetryPolicy().delay_s(3, None, chance) for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_attempts", 0), ("first_delay_s", -1), ("longest_delay_s", float("nan"))],
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ArgumentError, match=name):
        RetryPolicy(**{name: value})
