"""Each loss as an optimizer meets it: through a model's own loss computation."""

import math
from typing import ClassVar

import pytest
import torch
from loss_samples import seeded

from pellucid.core import (
    Flow,
    LMBaseModel,
    LossResolutionError,
    LossTextAccessMixin,
    ModelOutput,
    Provides,
    Targets,
    check_compatibility,
)
from pellucid.losses import FirstTokenNLLLoss, PrefillCELoss, SimilarityLoss

TEMPLATES = ["Say {{OPTIMIZED_TRIGGER}}.", "{{OPTIMIZED_TRIGGER}}?", "Well, {{OPTIMIZED_TRIGGER}}"]
RAGGED = [torch.tensor([1, 4, 2]), torch.tensor([3]), torch.tensor([0, 5])]


class TextLM(LMBaseModel, LossTextAccessMixin):
    """Answers each text with logits that are fixed by the text's characters."""

    provides: ClassVar[Provides] = {
        Flow.TEXTS: {
            "prefill_response_logits": ("require_target_prefill",),
            "response_first_token_logprobs": ("require_first_token_logprobs",),
        }
    }

    def __init__(self, dtype=torch.float32):
        self.dtype = dtype

    def invoke_from_texts(
        self,
        input_texts,
        message_targets=None,
        require_target_prefill=False,
        require_generation=False,
        require_first_token_logprobs=False,
    ):
        return ModelOutput(
            prefill_response_logits=self.predict(input_texts, message_targets)
            if require_target_prefill
            else None,
            response_first_token_logprobs=[{text[0]: -0.5} for text in input_texts]
            if require_first_token_logprobs
            else None,
        )

    def predict(self, texts, targets):
        n_target = len(targets.target_response_toks)
        rows = [seeded(n_target, 6, seed=sum(map(ord, text))) for text in texts]
        return torch.stack(rows).to(self.dtype)


class TextOptimizer:
    model_requirements = (LossTextAccessMixin,)


def set_up(model, **targets):
    model.set_inputs_from_texts(TEMPLATES, Targets(**targets))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_size", [1, 2, 4096])
def test_ragged_targets_give_one_loss_for_each_template(dtype, batch_size):
    model = set_up(TextLM(dtype), target_response_toks=RAGGED)
    model._forward_pass_batch_size = batch_size
    triggers = ["a", "bb", "ccc"]
    losses = model.compute_loss_from_texts(triggers, PrefillCELoss(), keep_message_dim=True)
    assert losses.dtype == torch.float32
    for template, tokens, row in zip(TEMPLATES, RAGGED, losses, strict=True):
        for trigger, loss in zip(triggers, row, strict=True):
            text = template.replace("{{OPTIMIZED_TRIGGER}}", trigger)
            logits = seeded(len(tokens), 6, seed=sum(map(ord, text))).to(dtype).float()
            expected = -logits.log_softmax(dim=-1).gather(1, tokens[:, None]).mean()
            torch.testing.assert_close(loss, expected)
    mean = model.compute_loss_from_texts(triggers, PrefillCELoss())
    torch.testing.assert_close(mean, losses.mean(dim=0))


def test_first_token_losses_through_a_model():
    model = set_up(TextLM())
    losses = model.compute_loss_from_texts(["S", "T"], FirstTokenNLLLoss("S"), True)
    assert losses.tolist() == [[0.5, 0.5], [0.5, math.inf], [math.inf, math.inf]]


def test_what_a_model_lacks_is_known_before_the_first_forward():
    model = TextLM()
    assert check_compatibility(model, TextOptimizer, PrefillCELoss()).compatible
    assert check_compatibility(model, TextOptimizer, FirstTokenNLLLoss()).compatible
    report = check_compatibility(model, TextOptimizer, SimilarityLoss())
    assert not report.compatible
    assert "'output_embeddings'" in report.reasons[0]


def test_a_target_that_was_not_set_is_named():
    model = set_up(TextLM(), target_response_strs=["x", "y", "z"])
    model.predict = lambda texts, targets: torch.zeros(len(texts), 1, 6)
    with pytest.raises(LossResolutionError, match="target_response_toks"):
        model.compute_loss_from_texts(["a"], PrefillCELoss())
