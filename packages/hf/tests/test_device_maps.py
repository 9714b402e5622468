"""Models that accelerate spreads over memory and disk compute what they compute in one place."""

import pytest
import torch

from pellucid.core import OPTIMIZED_TRIGGER_PLACEHOLDER as P
from pellucid.core import RequirementError, Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer

SPREAD = {
    "llama": (
        tiny_llama,
        {
            "model.embed_tokens": "cpu",
            "model.rotary_emb": "cpu",
            "model.layers.0": "cpu",
            "model.layers.1": "disk",
            "model.norm": "disk",
            "lm_head": "disk",
        },
    ),
    "gpt2": (
        tiny_gpt2,
        {
            "transformer.wte": "cpu",
            "transformer.wpe": "cpu",
            "transformer.h.0": "disk",
            "transformer.h.1": "cpu",
            "transformer.ln_f": "cpu",
            "lm_head": "cpu",
        },
    ),
}


@pytest.fixture(params=SPREAD)
def models(request, tmp_path):
    """The same model in one place, and spread as accelerate spreads it."""
    make, places = SPREAD[request.param]
    folder = str(tmp_path / "model")
    make().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    whole = LMHFModel(folder, tokenizer=tokenizer, device="cpu")
    spread = LMHFModel(
        folder, tokenizer=tokenizer, device_map=places, offload_folder=str(tmp_path / "weights")
    )
    for lm in (whole, spread):
        targets = Targets(target_response_strs=["Yes, it is.", "No"])
        lm.set_inputs_from_tokens([f"Tell me\n{P} now", f"Why?\n{P}"], targets)
    return whole, spread


def test_losses_gradients_and_logits_are_those_of_the_model_in_one_place(models, made):
    assert any(weight.device.type == "meta" for weight in models[1]._model.parameters())
    assert models[1].device.type == "cpu"
    ids = torch.randint(0, 200, (5, 4), generator=torch.Generator().manual_seed(0))
    for loss in (made.PrefillCE(), made.TriggerCE(), made.HiddenNorm()):
        ours, theirs = (
            lm.compute_loss_from_tokens(ids, loss, keep_message_dim=True) for lm in models
        )
        assert ours.equal(theirs)
        ours, theirs = (lm.compute_grad_from_tokens(loss, ids[:1]) for lm in models)
        assert ours.equal(theirs)
        assert ours.abs().max() > 0
    ours, theirs = (lm.compute_topk_from_tokens(made.PrefillCE(), ids[:1], 8) for lm in models)
    assert ours.token_ids.equal(theirs.token_ids)
    ours, theirs = (
        lm.compute_logits_from_tokens(ids, return_trigger_logits_only=True) for lm in models
    )
    assert ours.equal(theirs)


def test_answers_are_those_of_the_model_in_one_place(models):
    texts = ["Tell me a story", "Why?"]
    options = {"require_generation": True, "require_first_token_logprobs": True}
    ours, theirs = (lm.invoke_from_texts(texts, max_new_tokens=4, **options) for lm in models)
    assert ours.generated_response_strs == theirs.generated_response_strs
    assert ours.response_first_token_logprobs == theirs.response_first_token_logprobs


def test_an_embedding_table_that_is_kept_elsewhere_is_refused(tmp_path):
    """Triggers are given as embeddings, and gradients are products with the table."""
    folder = str(tmp_path / "model")
    tiny_llama().save_pretrained(folder)
    places = {"model": "disk", "lm_head": "cpu"}
    offload = str(tmp_path / "weights")
    with pytest.raises(RequirementError, match=r"embedding table .* offloaded.*device_map"):
        LMHFModel(folder, tokenizer=tiny_tokenizer(), device_map=places, offload_folder=offload)
