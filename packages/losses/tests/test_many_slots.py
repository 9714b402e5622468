"""Losses over the trigger's part of an input, where the trigger stands in several places."""

import pytest
import torch
from loss_samples import seeded

from pellucid.core import Targets, TriggerSlot
from pellucid.losses import AttentionEnhLoss, SteeringActivationLoss, TriggerPerplexityLoss
from pellucid.testing import TinyLM

# Part two, tokens 1 and 2, stands at 2 and 3 and again at 7 and 8; part one, token 0, at 5.
SLOTS = [
    TriggerSlot(slice(2, 4), slice(1, 3)),
    TriggerSlot(slice(5, 6), slice(0, 1)),
    TriggerSlot(slice(7, 9), slice(1, 3)),
]
SLICES = {"input_before": slice(0, 2), "trigger": slice(2, 4), "input_after": slice(9, 10)}
POSITIONS = [2, 3, 5, 7, 8]
TOKENS = [1, 2, 0, 1, 2]
TRIGGERS = torch.tensor([[4, 0, 6], [3, 3, 1]])


def test_perplexity_is_the_mean_over_all_places():
    logits = seeded(2, 10, 7)
    found = TriggerPerplexityLoss()(logits, TRIGGERS, SLICES, SLOTS)
    logp = logits.log_softmax(dim=-1)
    for sample, loss in enumerate(found):
        nll = [
            -logp[sample, position - 1, TRIGGERS[sample, token]]
            for position, token in zip(POSITIONS, TOKENS, strict=True)
        ]
        torch.testing.assert_close(loss, sum(nll) / len(nll))


def test_attention_counts_all_places_and_no_other_position():
    patterns = seeded(2, 3, 2, 10, 10).softmax(dim=-1)
    found = AttentionEnhLoss()(patterns, SLICES, SLOTS)
    torch.testing.assert_close(
        found, -patterns[:, :, :, [9]][..., POSITIONS].mean(dim=(1, 2, 3, 4))
    )
    turned = AttentionEnhLoss(src_slc_name="input_before", dst_slc_name="trigger")
    expected = -patterns[:, :, :, POSITIONS][..., :2].mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(turned(patterns, SLICES, SLOTS), expected)


def test_steering_counts_all_places():
    hidden, direction = seeded(2, 3, 10, 4), seeded(4, seed=1)
    found = SteeringActivationLoss(slc_name="trigger")(hidden, direction, SLICES, SLOTS)
    projected = hidden[:, :, POSITIONS] @ (direction / direction.norm())
    torch.testing.assert_close(found, -projected.mean(dim=(1, 2)))


def test_one_place_is_what_the_slices_say():
    logits, slot = seeded(2, 10, 7), [TriggerSlot(slice(2, 5), slice(0, 3))]
    slices = {"trigger": slice(2, 5)}
    loss = TriggerPerplexityLoss()
    assert torch.equal(loss(logits, TRIGGERS, slices, slot), loss(logits, TRIGGERS, slices))


@pytest.mark.parametrize("places", [1, 3])
def test_through_a_model_every_place_counts(places):
    model = TinyLM(dtype=torch.float64)
    template = "Say" + " {{OPTIMIZED_TRIGGER}} or" * places
    model.set_inputs_from_tokens([template], Targets())
    ids = torch.tensor([[10, 20, 30]])
    found = model.compute_loss_from_tokens(ids, TriggerPerplexityLoss())
    filled = model._token_input_manager.get_triggered_inputs(0, ids)
    logp = model.invoke_from_tokens(filled.input_ids).full_logits[0].log_softmax(dim=-1)
    row = filled.input_ids[0].tolist()
    starts = [i for i in range(len(row)) if row[i : i + 3] == [10, 20, 30]]
    assert len(starts) == places
    nll = [-logp[start + i - 1, row[start + i]] for start in starts for i in range(3)]
    torch.testing.assert_close(found[0], sum(nll) / len(nll))
