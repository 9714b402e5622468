import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import resolve

from pellucid.core import ArgumentError, ContractError, LossResolutionError, ModelOutput
from pellucid.losses import FirstTokenNLLLoss, TextBasedLoss


def test_the_likelier_spelling_counts():
    logprobs = [{"Yes": -2.0, " Yes": -0.5}, {"Yes": -0.25, " Yes": -3.0}, {" Yes": -1.0}]
    assert FirstTokenNLLLoss("Yes")(logprobs).tolist() == [0.5, 0.25, 1.0]


def test_a_token_that_is_not_among_the_likeliest_never_wins():
    losses = FirstTokenNLLLoss("Yes")([{"No": -0.1}, {}, None, {"Yes": -90.0}])
    assert losses.tolist() == [math.inf, math.inf, math.inf, 90.0]


def test_a_missing_token_may_be_given_a_value():
    loss = FirstTokenNLLLoss("Yes", missing_logprob_value=-20.0)
    assert loss([{"No": -0.1}, None, {"Yes": -25.0}]).tolist() == [20.0, 20.0, 20.0]


def test_other_spellings_do_not_count():
    assert FirstTokenNLLLoss()([{"sure": -0.1, "Sur": -0.1, "  Sure": -0.1}]).isinf().all()


def test_the_default_token():
    assert FirstTokenNLLLoss()([{"Sure": -0.75}]).tolist() == [0.75]


@given(st.lists(st.dictionaries(st.sampled_from(["A", " A", "B"]), st.floats(-80, 0)), min_size=1))
def test_the_loss_is_the_least_nll_of_the_two(logprobs):
    losses = FirstTokenNLLLoss("A")(logprobs)
    assert losses.dtype == torch.float32
    assert losses.shape == (len(logprobs),)
    for loss, row in zip(losses.tolist(), logprobs, strict=True):
        nlls = [-row[text] for text in ("A", " A") if text in row]
        assert loss == pytest.approx(min(nlls, default=math.inf), rel=1e-6)


def test_an_empty_token_is_refused():
    with pytest.raises(ArgumentError, match="target_token"):
        FirstTokenNLLLoss("")


def test_anything_but_a_list_of_logprobs_is_refused():
    with pytest.raises(ContractError, match="response_first_token_logprobs"):
        FirstTokenNLLLoss()({"Sure": -1.0})


def test_what_first_token_nll_declares():
    loss = FirstTokenNLLLoss()
    assert isinstance(loss, TextBasedLoss)
    assert not loss.is_differentiable
    assert loss.reads().required == {"response_first_token_logprobs"}
    asked = [name for name, value in loss.options().items() if value]
    assert asked == ["require_first_token_logprobs"]
    assert repr(loss) == "FirstTokenNLLLoss(target_token='Sure', missing_logprob_value=-inf)"


def test_it_is_resolved_from_the_output():
    output = ModelOutput(response_first_token_logprobs=[{"Sure": -1.0}, None])
    assert resolve(FirstTokenNLLLoss(), output).tolist() == [1.0, math.inf]


def test_a_model_without_logprobs_is_named_as_the_reason():
    with pytest.raises(LossResolutionError, match="response_first_token_logprobs"):
        resolve(FirstTokenNLLLoss(), ModelOutput(generated_response_strs=["Sure"]))
