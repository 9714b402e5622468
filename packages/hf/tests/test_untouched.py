"""Nothing of the caller's is changed, whatever is computed."""

import copy
import logging
import warnings

import numpy as np
import pytest
import torch

from pellucid.core import Targets
from pellucid.hf import LMHFModel
from pellucid.testing import tiny_gpt2, tiny_llama, tiny_tokenizer


def snapshot(model, tokenizer):
    """Everything about a model and a tokenizer that a careless backend would change."""
    return {
        "training": [module.training for module in model.modules()],
        "requires_grad": [weight.requires_grad for weight in model.parameters()],
        "grad": [weight.grad for weight in model.parameters()],
        "config": model.config.to_dict(),
        "generation_config": model.generation_config.to_dict(),
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "weights": [weight.detach().clone() for weight in model.parameters()],
        "backend": tokenizer.backend_tokenizer.to_str(),
        "n_ids": len(tokenizer),
        "special": copy.deepcopy(tokenizer.special_tokens_map),
        "padding_side": tokenizer.padding_side,
        "chat_template": tokenizer.chat_template,
        "loggers": [logging.getLogger(name).level for name in ("", "transformers")],
        "filters": list(warnings.filters),
        "numpy": str(np.random.get_state()),
        "torch": torch.random.get_rng_state(),
    }


def assert_same(before, after):
    for name, held in before.items():
        if name == "weights":
            assert all(torch.equal(a, b) for a, b in zip(held, after[name], strict=True))
        elif name == "torch":
            assert torch.equal(held, after[name])
        else:
            assert held == after[name], name


def use_everything(lm, made, candidates):
    targets = Targets(target_response_strs=made.targets)
    lm.set_inputs_from_tokens(made.templates, targets)
    lm.compute_loss_from_tokens(candidates, made.PrefillCE())
    lm.compute_grad_from_tokens(made.PrefillCE(), candidates)
    lm.compute_topk_from_tokens(made.PrefillCE(), candidates, 4)
    lm.compute_logits_from_tokens(candidates, return_trigger_logits_only=True)
    lm.retokenization_mask(candidates)
    lm.set_inputs_from_texts(made.templates, targets)
    lm.compute_loss_from_texts(["! !", "x"], made.PrefillCE())
    lm(["Hello", "Is it so?"], max_new_tokens=3)
    assert targets.target_response_toks is None


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("train", [False, True])
def test_model_and_tokenizer_stay_as_they_were(build, train, made, candidates):
    model = build().train(train)
    model.lm_head.weight.requires_grad = False
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    before = snapshot(model, tokenizer)
    use_everything(LMHFModel(model, tokenizer=tokenizer), made, candidates)
    assert_same(before, snapshot(model, tokenizer))


def test_padding_and_truncation_that_the_tokenizer_has_set_are_ignored_and_kept(made):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    before = tokenizer.backend_tokenizer.to_str()
    lm = LMHFModel(tiny_llama(), tokenizer=tokenizer)
    plain = LMHFModel(tiny_llama(), tokenizer=tiny_tokenizer())
    for one in (lm, plain):
        one.set_inputs_from_texts(made.templates, Targets(target_response_strs=made.targets))
    losses = [one.compute_loss_from_texts(["! ! !"], made.PrefillCE()) for one in (lm, plain)]
    assert torch.equal(*losses)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_the_model_is_restored_after_an_error(made, candidates):
    model = tiny_llama().train()
    before = snapshot(model, tiny_tokenizer())
    lm = LMHFModel(model, tokenizer=tiny_tokenizer())
    lm.set_inputs_from_tokens(made.templates)
    with pytest.raises(ValueError, match="target response"):
        lm.compute_loss_from_tokens(candidates, made.PrefillCE())
    assert_same(before, snapshot(model, tiny_tokenizer()))


def test_dropout_is_off_unless_training_is_asked_for(made, candidates):
    model = tiny_gpt2().train()
    for train, is_repeatable in ((False, True), (True, False)):
        lm = LMHFModel(model, tokenizer=tiny_tokenizer(), set_model_to_train=train)
        lm.set_inputs_from_tokens(made.templates[:1], Targets(target_response_strs=["Yes"]))
        with torch.random.fork_rng():
            one, two = (lm.compute_loss_from_tokens(candidates, made.PrefillCE()) for _ in "ab")
        assert torch.equal(one, two) == is_repeatable


def test_gradients_make_no_gradient_of_weights(made, candidates):
    model = tiny_llama()
    for weight in model.parameters():
        weight.register_hook(lambda _: pytest.fail("a weight's gradient was computed"))
    lm = LMHFModel(model, tokenizer=tiny_tokenizer())
    lm.set_inputs_from_tokens(made.templates, Targets(target_response_strs=made.targets))
    lm.compute_grad_from_tokens(made.PrefillCE(), candidates)
    assert all(weight.requires_grad for weight in model.parameters())
