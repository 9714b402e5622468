"""Every loss against the conformance suite."""

import torch
from loss_samples import seeded

from pellucid.core import CombinedLoss, LMBaseModel, ModelOutput
from pellucid.losses import (
    AttentionEnhLoss,
    FirstTokenNLLLoss,
    InputFluencyLoss,
    MisclassCELoss,
    PrefillCELoss,
    PrefillCWLoss,
    PrefillDistillationLoss,
    PrefillMellowMaxLoss,
    ResponseLMScoreLoss,
    SimilarityLoss,
    SteeringActivationLoss,
    TriggerPerplexityLoss,
)
from pellucid.testing import LossContract

PREFILL = {
    "prefill_response_logits": seeded(3, 4, 7, dtype=torch.float32),
    "target_response_toks": torch.tensor([2, 0, 6, 3]),
}
SLICES = {"input_before": slice(0, 2), "trigger": slice(2, 4), "input_after": slice(4, 6)}


class LengthJudge(LMBaseModel):
    """Says yes the more, the longer it is asked."""

    def invoke_from_texts(self, input_texts, **kwargs):
        lengths = [len(talk[0]["content"]) for talk in input_texts]
        logprobs = [{"Yes": -1 / length, "No": -0.1 * length} for length in lengths]
        return ModelOutput(response_first_token_logprobs=logprobs)


class TestPrefillCELoss(LossContract):
    def make_loss(self):
        return PrefillCELoss(temperature=0.8)

    def make_fields(self):
        return PREFILL


class TestPrefillMellowMaxLoss(LossContract):
    def make_loss(self):
        return PrefillMellowMaxLoss(0.6)

    def make_fields(self):
        return PREFILL


class TestPrefillCWLoss(LossContract):
    def make_loss(self):
        return PrefillCWLoss(first_token_weight=2.0)

    def make_fields(self):
        return PREFILL


class TestPrefillDistillationLoss(LossContract):
    def make_loss(self):
        return PrefillDistillationLoss(reference_temperature=0.5)

    def make_fields(self):
        logits = seeded(4, 7, seed=1, dtype=torch.float32)
        return {
            "prefill_response_logits": PREFILL["prefill_response_logits"],
            "target_response_logits": logits,
        }


class TestTriggerPerplexityLoss(LossContract):
    def make_loss(self):
        return TriggerPerplexityLoss()

    def make_fields(self):
        return {
            "full_logits": seeded(3, 6, 7, dtype=torch.float32),
            "input_trigger_ids": torch.tensor([[1, 2], [3, 4], [5, 6]]),
            "input_slices": SLICES,
        }


class TestSteeringActivationLoss(LossContract):
    def make_loss(self):
        return SteeringActivationLoss([-1], slc_name="trigger")

    def make_fields(self):
        return {
            "full_hidden_states": seeded(3, 2, 6, 5, dtype=torch.float32),
            "target_directions": seeded(5, seed=1, dtype=torch.float32),
            "input_slices": SLICES,
        }


class TestSteeringEverywhere(TestSteeringActivationLoss):
    def make_loss(self):
        return SteeringActivationLoss(slc_name=None, do_cosine_sim=True, apply_square=True)


class TestAttentionEnhLoss(LossContract):
    def make_loss(self):
        return AttentionEnhLoss()

    def make_fields(self):
        patterns = seeded(3, 2, 2, 6, 6, dtype=torch.float32).softmax(dim=-1)
        return {"full_attentions": patterns, "input_slices": SLICES}


class TestSimilarityLoss(LossContract):
    def make_loss(self):
        return SimilarityLoss()

    def make_fields(self):
        return {
            "output_embeddings": seeded(3, 5, dtype=torch.float32),
            "target_vectors": seeded(5, seed=1, dtype=torch.float32),
        }


class TestMisclassCELoss(LossContract):
    def make_loss(self):
        return MisclassCELoss()

    def make_fields(self):
        return {
            "output_class_logits": seeded(3, 4, dtype=torch.float32),
            "true_class_idx": 1,
            "target_class_idx": 2,
        }


class TestTargetedMisclassCELoss(TestMisclassCELoss):
    def make_loss(self):
        return MisclassCELoss(targeted=True)


class TestFirstTokenNLLLoss(LossContract):
    def make_loss(self):
        return FirstTokenNLLLoss("Yes")

    def make_fields(self):
        return {"response_first_token_logprobs": [{"Yes": -1.0}, {" Yes": -0.5}]}


class TestInputFluencyLoss(LossContract):
    def make_loss(self):
        return InputFluencyLoss(judge=LengthJudge())

    def make_fields(self):
        return {"input_texts": ["a", "bb", "cccc"]}


class TestResponseLMScoreLoss(LossContract):
    def make_loss(self):
        return ResponseLMScoreLoss(judge=LengthJudge())

    def make_fields(self):
        return {"generated_response_strs": ["a", "bb", "cccc"]}


class TestCombinedLoss(LossContract):
    def make_loss(self):
        inner = CombinedLoss([PrefillCWLoss(), PrefillCELoss(temperature=2.0)])
        return CombinedLoss([PrefillCELoss(), inner], [1.0, 0.3])

    def make_fields(self):
        return PREFILL
