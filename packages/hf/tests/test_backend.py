"""A backend of one's own, written as the guide says: a constructor and two methods."""

import pytest
import torch

from pellucid.core import (
    OPTIMIZED_TRIGGER_PLACEHOLDER,
    GradientEmbedAccessMixin,
    GradientTokenAccessMixin,
    LMBaseModel,
    LossTextAccessMixin,
    LossTokenAccessMixin,
    ModelOutput,
    Targets,
)
from pellucid.hf import HuggingFaceBackendModel, HuggingFaceTokenInputManager, LMHFModel
from pellucid.testing import tiny_llama, tiny_tokenizer


class OwnModel(
    LMBaseModel,
    HuggingFaceBackendModel,
    LossTokenAccessMixin,
    GradientTokenAccessMixin,
    GradientEmbedAccessMixin,
    LossTextAccessMixin,
):
    def __init__(self):
        self._model = tiny_llama()
        self._embedding_layer = self._model.get_input_embeddings()
        self._tokenizer = tiny_tokenizer()
        self._tokenizer.add_special_tokens(
            {"additional_special_tokens": [OPTIMIZED_TRIGGER_PLACEHOLDER]}
        )
        self._forward_pass_batch_size = 4

    @property
    def tokenizer(self):
        return self._tokenizer

    def set_inputs_from_tokens(self, templates, targets=None):
        tok_ids = self.tokenizer(templates, add_special_tokens=True)["input_ids"]
        toks = self.tokenizer(targets.target_response_strs)["input_ids"]
        self._token_input_manager = HuggingFaceTokenInputManager(
            tok_ids=tok_ids,
            model=self._model,
            tokenizer=self.tokenizer,
            embed_func=self._embedding_layer,
            optimized_trigger_placeholder=OPTIMIZED_TRIGGER_PLACEHOLDER,
            targets=targets.replace(target_response_toks=[torch.tensor(row) for row in toks]),
        )

    def invoke_from_tokens(
        self,
        input_embeds,
        input_attention_mask,
        input_prefix_cache_kwargs=None,
        input_slices=None,
        count_backward=False,
        **kwargs,
    ):
        outputs = self._model(
            inputs_embeds=input_embeds,
            attention_mask=input_attention_mask,
            **(input_prefix_cache_kwargs or {}),
        )
        self._update_invoke_stats(
            n_tokens=int(input_attention_mask.sum().item()),
            n_samples=input_embeds.shape[0],
            count_backward=count_backward,
        )
        place = input_slices["appended"]
        return ModelOutput(
            full_logits=outputs.logits,
            prefill_response_logits=outputs.logits[:, place.start - 1 : place.stop - 1],
        )

    def invoke_from_texts(self, input_texts, **kwargs):
        return ModelOutput()


@pytest.fixture
def both(made):
    own = OwnModel()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    known = LMHFModel(own._model, tokenizer=tokenizer)
    # A line break before the slot: there is no space that could belong to either side.
    template = f"Why?\n{OPTIMIZED_TRIGGER_PLACEHOLDER} so"
    for model in (own, known):
        model.set_inputs_from_tokens([template], Targets(target_response_strs=["Yes, it is."]))
    return own, known


def test_an_own_model_has_all_compute_methods(both, made, candidates):
    own, known = both
    loss = made.PrefillCE()
    torch.testing.assert_close(
        own.compute_loss_from_tokens(candidates, loss),
        known.compute_loss_from_tokens(candidates, loss),
    )
    torch.testing.assert_close(
        own.compute_grad_from_tokens(loss, candidates),
        known.compute_grad_from_tokens(loss, candidates),
        rtol=1e-4,
        atol=1e-6,
    )
    ours, theirs = (model.compute_topk_from_tokens(loss, candidates, 5) for model in both)
    assert torch.equal(ours.token_ids, theirs.token_ids)
    assert own.device == torch.device("cpu")
    assert own.n_layers == 2
    assert own.get_usage_stats()["grad_samples"] == 2 * len(candidates)


def test_flops_are_counted_of_an_own_model(both, made, candidates):
    own, _ = both
    own.set_flop_counting("manual")
    own.compute_loss_from_tokens(candidates, made.PrefillCE())
    assert own.get_usage_stats()["total_flops"] > 0


@pytest.mark.parametrize("as_one_token", [False, True])
def test_the_placeholder_is_found_as_one_token_or_spelled_out(candidates, as_one_token):
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    expected = tokenizer("Why?\n")["input_ids"], tokenizer(" so")["input_ids"]
    if as_one_token:
        tokenizer.add_special_tokens({"additional_special_tokens": [OPTIMIZED_TRIGGER_PLACEHOLDER]})
    rows = tokenizer([f"Why?\n{OPTIMIZED_TRIGGER_PLACEHOLDER} so"])["input_ids"]
    manager = HuggingFaceTokenInputManager(tokenizer, templates_ids=rows, model=model)
    inputs = manager.get_triggered_inputs(0, candidates)
    before, after = (model.get_input_embeddings()(torch.tensor(ids)).detach() for ids in expected)
    assert torch.equal(inputs.input_embeds[3, : len(before)], before)
    assert torch.equal(inputs.input_embeds[3, -len(after) :], after)
    assert inputs.input_attention_mask.shape == inputs.input_embeds.shape[:2]
    assert inputs.input_slices["trigger"] == slice(len(before), len(before) + 6)
    assert inputs.input_slices["input_last_token"].stop == inputs.input_embeds.shape[1]
