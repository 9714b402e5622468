"""Losses of one package read the insides of another's models, no more of them than they name."""

import pytest
import torch

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.losses import AttentionEnhLoss, SteeringActivationLoss
from pellucid.testing import tiny_llama, tiny_tokenizer

LOSSES = [
    SteeringActivationLoss(targeted_layers=[1], slc_name="trigger"),
    SteeringActivationLoss(targeted_layers=[0, -1]),
    SteeringActivationLoss(slc_name=None),
    AttentionEnhLoss(targeted_layers=[2]),
    AttentionEnhLoss(src_slc_name="input_before", dst_slc_name="trigger"),
]


@pytest.fixture
def model():
    """A model of four layers, and a template with the trigger in two places."""
    llama = tiny_llama(num_hidden_layers=4, attn_implementation="eager")
    return LMHFModel(llama, tokenizer=tiny_tokenizer(), use_eager_attention=True)


@pytest.mark.parametrize("templates", [[f"Why? Tell me {P} now"], [f"Say {P} and {P} now"]])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_what_is_named_is_all_a_loss_needs(model, loss, templates, monkeypatch):
    direction = torch.randn((1, 32), generator=torch.Generator().manual_seed(0))
    model.set_inputs_from_tokens(templates, Targets(target_directions=direction))
    rows = torch.randint(5, 384, (4, 3), generator=torch.Generator().manual_seed(1))
    found = model.compute_loss_from_tokens(rows, loss)
    grads = model.compute_grad_from_tokens(loss, rows)
    monkeypatch.setattr(type(loss), "selections", lambda _: {})
    torch.testing.assert_close(found, model.compute_loss_from_tokens(rows, loss))
    whole = model.compute_grad_from_tokens(loss, rows)
    torch.testing.assert_close(grads, whole, rtol=1e-4, atol=1e-6)
