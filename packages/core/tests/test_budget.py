import math

import pytest
from core_samples import EchoLM, unhooked
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import Budget, BudgetError, FlopCounterBase, RequirementError


def used(tokens):
    model = EchoLM()
    model._update_usage_stats(tokens=tokens)
    return model


@given(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_budget_is_spent_once_its_limit_is_reached(limit, target, auxiliary):
    models = used(target), [used(auxiliary)]
    assert Budget(limit=limit).is_spent(*models) == (target + auxiliary >= limit)
    assert Budget(limit=limit, scope="target").is_spent(*models) == (target >= limit)
    assert not Budget(limit=math.inf).is_spent(*models)


class OneFlopAToken(FlopCounterBase):
    def count_forward(self, n_tokens):
        return n_tokens

    def count_backward(self, n_tokens):
        return 2 * n_tokens


def test_flops_must_be_counted_to_be_limited():
    model = EchoLM("echo")
    budget = Budget(limit=5, metric="total_flops")
    with pytest.raises(RequirementError, match=r"set_flop_counting\('manual'\) on 'echo'"):
        budget.is_spent(model)
    model._flop_counter = OneFlopAToken()
    model(["abcd"])
    assert not budget.is_spent(model)
    model(["e"])
    assert budget.is_spent(model)


@pytest.mark.parametrize("limit", [0, -1, -0.5, math.nan])
def test_a_budget_is_positive(limit):
    with pytest.raises(BudgetError, match="a budget must be positive, got") as caught:
        Budget(limit=limit)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "tokens"}, "unknown 'tokens'. Use one of total_tokens, total_flops"),
        ({"scope": "everything"}, "unknown 'everything'. Use one of all, target"),
    ],
)
def test_names_are_known(arguments, message):
    with pytest.raises(BudgetError, match=message):
        unhooked(Budget.__init__)(object.__new__(Budget), limit=1, **arguments)
