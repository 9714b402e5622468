import math
from typing import Literal

import pytest

from pellucid.core import ArgumentError
from pellucid.optimizers._checks import (
    check_choice,
    check_not_negative,
    check_positive,
    check_shares,
)

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (check_positive, [1, 0.5], [0, -1, math.nan, math.inf, "1", None, True], "above 0"),
        (check_not_negative, [0, 0.5, 7], [-0.1, math.nan, math.inf, None], "at least 0"),
        (check_shares, [0, 1, 0.25], [-0.1, 1.1, math.nan, "x"], "from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(check, good, bad, message):
    for value in good:
        check(size=value)
    for value in bad:
        with pytest.raises(ArgumentError, match=rf"size must be .*{message}, got"):
            check(size=value)


def test_unknown_words_are_refused_with_the_known_ones():
    check_choice("mode", "fast", Literal["fast", "slow"])
    with pytest.raises(ArgumentError, match="mode must be one of fast, slow, got 'fats'"):
        check_choice("mode", "fats", Literal["fast", "slow"])
