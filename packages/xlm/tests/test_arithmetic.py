import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.xlm._arithmetic import evaluate

NUMBERS = st.integers(min_value=-99, max_value=99)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "<=": operator.le}


@given(left=NUMBERS, right=NUMBERS, sign=st.sampled_from(sorted(OPERATORS)))
def test_it_computes_as_python_does(left, right, sign):
    assert evaluate(f"({left}) {sign} ({right})") == OPERATORS[sign](left, right)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 ** 3 // 3", 2),
        ("7 % 4", 3),
        ("1 if 2 > 1 else 0", 1),
        ("-(3 / 2)", -1.5),
        ("not 0", True),
    ],
)
def test_it_knows_the_operators(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "open('x')",
        "().__class__",
        "[1][0]",
        "'a' * 3",
        "x",
        "lambda: 1",
        "1 < 2 < 3",
        "1; 2",
        "",
        "(" * 300,
    ],
)
def test_it_does_nothing_else(expression):
    with pytest.raises(ArgumentError):
        evaluate(expression)


@pytest.mark.parametrize("expression", ["1 / 0", "2 ** 999999", "9.0 ** 9 ** 9"])
def test_what_has_no_value_is_said_to_have_none(expression):
    with pytest.raises(ArgumentError, match="has no value"):
        evaluate(expression)
