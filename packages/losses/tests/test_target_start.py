import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import MessageTargets, ModelInput, ModelOutput, resolve_and_compute_loss
from pellucid.losses import TargetStartNLLLoss

rows = st.dictionaries(st.text(" abc", max_size=3), st.floats(-20, 0), min_size=1, max_size=6)


@given(row=rows, target=st.text("abc", min_size=1, max_size=4))
def test_it_is_the_likelihood_of_all_tokens_that_the_target_begins_with(row, target):
    held = [math.exp(v) for t, v in row.items() if t.strip() and target.startswith(t.lstrip())]
    expected = -math.log(math.fsum(held)) if held else -min(row.values())
    (loss,) = TargetStartNLLLoss()([row], target).tolist()
    assert loss == pytest.approx(expected, abs=1e-5)


def test_spaces_before_the_target_and_its_tokens_count_for_nothing():
    rows = [{" Mira": -0.5, "The": -1.0}, {"Mira": -0.5, "The": -1.0}]
    loss = TargetStartNLLLoss()
    assert loss(rows, "Mira is").equal(loss(rows[::-1], "  Mira is"))


def test_no_answer_is_infinitely_bad():
    losses = TargetStartNLLLoss()([None, {}, {"a": -1.0}], "b")
    torch.testing.assert_close(losses, torch.tensor([math.inf, math.inf, 1.0]))


def test_it_reads_the_target_of_its_template():
    output = ModelOutput(response_first_token_logprobs=[{"yes": -0.25}])
    given = ModelInput(message_targets=MessageTargets(target_response_strs="yes, it is"))
    assert resolve_and_compute_loss(output, given, TargetStartNLLLoss()).tolist() == [0.25]
