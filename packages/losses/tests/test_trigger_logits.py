import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import (
    assert_gradient_is_that_of_finite_differences,
    assert_low_precision_is_computed_in_float32,
    resolve,
    seeded,
)

from pellucid.core import ArgumentError, ContractError, ModelOutput, SliceKey
from pellucid.losses import TriggerLogitBasedLoss, TriggerPerplexityLoss

LOGITS = seeded(3, 8, 7)
TRIGGERS = torch.tensor([[2, 0, 6], [3, 3, 1], [5, 4, 0]])
SLICES = {SliceKey.INPUT_BEFORE: slice(0, 2), SliceKey.TRIGGER: slice(2, 5)}


def naive_nll(logits, triggers, *, start, temperature=1.0):
    """Each token against the logits of the position before it, one number at a time."""
    rows = []
    for sample, trigger in zip(logits.tolist(), triggers.tolist(), strict=True):
        nll = 0.0
        for i, token in enumerate(trigger):
            row = [z / temperature for z in sample[start + i - 1]]
            nll += math.log(sum(math.exp(z) for z in row)) - row[token]
        rows.append(nll / len(trigger))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_perplexity_is_the_mean_nll_of_the_trigger(temperature):
    losses = TriggerPerplexityLoss(temperature)(LOGITS, TRIGGERS, SLICES)
    expected = naive_nll(LOGITS, TRIGGERS, start=2, temperature=temperature)
    torch.testing.assert_close(losses, expected)


def test_equal_logits_give_the_log_of_the_vocabulary():
    losses = TriggerPerplexityLoss()(torch.zeros(3, 8, 7), TRIGGERS, SLICES)
    torch.testing.assert_close(losses, torch.full((3,), math.log(7)))


def test_logits_that_predict_no_trigger_token_have_no_influence():
    changed = LOGITS.clone()
    changed[:, [0, 4, 5, 6, 7]] = torch.nan
    loss = TriggerPerplexityLoss()
    assert torch.equal(loss(changed, TRIGGERS, SLICES), loss(LOGITS, TRIGGERS, SLICES))


def test_a_trigger_of_one_token_at_the_end():
    losses = TriggerPerplexityLoss()(LOGITS, TRIGGERS[:, :1], {"trigger": slice(7, 8)})
    torch.testing.assert_close(losses, naive_nll(LOGITS, TRIGGERS[:, :1], start=7))


def test_open_and_negative_slices():
    expected = naive_nll(LOGITS, TRIGGERS, start=5)
    for part in (slice(5, None), slice(-3, None), slice(5, 8)):
        torch.testing.assert_close(
            TriggerPerplexityLoss()(LOGITS, TRIGGERS, {"trigger": part}), expected
        )


def test_another_part_may_hold_the_tokens():
    loss = TriggerPerplexityLoss(slc_name="appended")
    losses = loss(LOGITS, TRIGGERS, {**SLICES, "appended": slice(5, 8)})
    torch.testing.assert_close(losses, naive_nll(LOGITS, TRIGGERS, start=5))


def test_perplexity_gradient():
    assert_gradient_is_that_of_finite_differences(
        lambda z: TriggerPerplexityLoss(0.8)(z, TRIGGERS, SLICES), LOGITS
    )


def test_perplexity_computes_in_float32():
    assert_low_precision_is_computed_in_float32(
        lambda z: TriggerPerplexityLoss()(z, TRIGGERS, SLICES), LOGITS
    )


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_agrees_with_the_naive_form(seed, n_batch, n_trigger, start):
    logits = 4 * seeded(n_batch, start + n_trigger, 6, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    triggers = torch.randint(6, (n_batch, n_trigger), generator=generator)
    losses = TriggerPerplexityLoss()(logits, triggers, {"trigger": slice(start, start + n_trigger)})
    torch.testing.assert_close(losses, naive_nll(logits, triggers, start=start))


def test_a_trigger_that_nothing_predicts_is_refused():
    with pytest.raises(ArgumentError, match=r"begins at position 0.*use_prefix_cache=False"):
        TriggerPerplexityLoss()(LOGITS, TRIGGERS, {"trigger": slice(0, 3)})


@pytest.mark.parametrize("slices", [{"input_before": slice(0, 2)}, {}])
def test_a_missing_part_is_named_with_those_that_are_there(slices):
    with pytest.raises(ArgumentError, match=r"no part 'trigger' \(it has ('input_before'|none)\)"):
        TriggerPerplexityLoss()(LOGITS, TRIGGERS, slices)


def test_an_empty_part_is_refused():
    with pytest.raises(ArgumentError, match="holds no position"):
        TriggerPerplexityLoss()(LOGITS, TRIGGERS, {"trigger": slice(4, 4)})


def test_a_part_of_another_length_is_refused():
    with pytest.raises(ArgumentError, match="4 positions, it has 3 tokens"):
        TriggerPerplexityLoss()(LOGITS, TRIGGERS, {"trigger": slice(2, 6)})


def test_batches_that_disagree_are_refused_by_axis_name():
    with pytest.raises(ContractError, match="batch"):
        TriggerPerplexityLoss()(LOGITS, TRIGGERS[:2], SLICES)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ArgumentError, match="temperature must be positive, got 0"):
        TriggerPerplexityLoss(temperature=0.0)


def test_what_perplexity_declares():
    loss = TriggerPerplexityLoss()
    assert isinstance(loss, TriggerLogitBasedLoss)
    assert loss.is_differentiable
    assert loss.reads().required == {"full_logits", "input_trigger_ids", "input_slices"}
    assert not any(loss.options().values())


def test_it_is_resolved_from_output_and_input():
    losses = resolve(
        TriggerPerplexityLoss(),
        ModelOutput(full_logits=LOGITS),
        input_trigger_ids=TRIGGERS,
        input_slices=SLICES,
    )
    torch.testing.assert_close(losses, naive_nll(LOGITS, TRIGGERS, start=2))
