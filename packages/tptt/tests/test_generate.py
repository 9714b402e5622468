"""Generation with a cache is generation without one, in every way that transformers offers."""

import copy

import pytest
import torch
from transformers import DynamicCache

from pellucid.core import ArgumentError
from pellucid.testing import tiny_gpt2, tiny_llama
from pellucid.tptt import get_tptt_model

WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled beams": {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
}
MODES = {
    "delta_rule": {},
    "delta_product_c": {},
    "delta_rule_gelu": {"max_chunk_size": 4},
}


@pytest.fixture(scope="module", params=MODES)
def model(request):
    base = tiny_gpt2() if request.param == "delta_product_c" else tiny_llama()
    return get_tptt_model(base, base.config, operator_mode=request.param, **MODES[request.param])[0]


def generate(model, ids, mask=None, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            max_new_tokens=10,
            eos_token_id=None,
            pad_token_id=2,
            **options,
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_cache_changes_nothing(model, prompt, way):
    cached = generate(model, prompt, **WAYS[way])
    assert torch.equal(cached, generate(model, prompt, use_cache=False, **WAYS[way]))


def test_rows_padded_on_the_left_are_each_by_itself(model, prompt):
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0
    both = generate(model, prompt, mask, do_sample=False)
    alone = generate(model, prompt[:1, 4:], do_sample=False)
    assert torch.equal(both[0, 11:], alone[0, 7:])


def test_drafts_that_are_refused_are_taken_back(model, prompt):
    expected = generate(model, prompt[:1], do_sample=False)
    for options in ({"prompt_lookup_num_tokens": 3}, {"prompt_lookup_num_tokens": 9}):
        assert torch.equal(generate(model, prompt[:1], do_sample=False, **options), expected)


def test_an_assistant_may_draft(prompt):
    assistant = get_tptt_model(tiny_llama(3), tiny_llama().config)[0]
    base = tiny_llama()
    main = get_tptt_model(base, base.config)[0]
    expected = generate(main, prompt[:1], do_sample=False)
    for helper in (assistant, copy.deepcopy(main)):
        drafted = generate(main, prompt[:1], do_sample=False, assistant_model=helper)
        assert torch.equal(drafted, expected)


def test_a_cache_of_fixed_size_serves_as_well(model, prompt):
    expected = generate(model, prompt, do_sample=False)
    static = generate(
        model, prompt, do_sample=False, cache_implementation="static", disable_compile=True
    )
    assert torch.equal(static, expected)


@torch.no_grad()
def test_each_prompt_begins_anew(model, prompt):
    first = generate(model, prompt, do_sample=False)
    generate(model, prompt.flip(1), do_sample=False)
    assert torch.equal(generate(model, prompt, do_sample=False), first)


@torch.no_grad()
def test_tokens_can_be_taken_back_as_far_as_the_last_call(model, prompt):
    cache = DynamicCache()
    model(prompt[:, :5], past_key_values=cache)
    model(prompt[:, 5:9], past_key_values=cache)
    cache.crop(-1)
    cache.crop(-2)
    rest = model(prompt[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(rest, model(prompt).logits[:, 6:], atol=3e-5, rtol=3e-5)
    cache.crop(-5)
    with pytest.raises(ArgumentError, match=r"3 tokens cannot be taken back.*can go back 0"):
        cache.crop(-3)


@torch.no_grad()
def test_a_cache_that_is_reset_remembers_nothing(model, prompt):
    cache = DynamicCache()
    expected = model(prompt, past_key_values=cache).logits
    cache.reset()
    torch.testing.assert_close(model(prompt, past_key_values=cache).logits, expected)


@torch.no_grad()
def test_rows_of_a_cache_can_be_chosen_and_repeated(model, prompt):
    cache = DynamicCache()
    model(prompt[:, :6], past_key_values=cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    out = model(prompt.flip(0)[:, 6:], past_key_values=cache).logits
    expected = model(prompt.flip(0)).logits[:, 6:]
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=3e-5)


@torch.no_grad()
def test_a_cache_of_another_batch_is_refused(prompt):
    base = tiny_llama()
    model, shown = get_tptt_model(base, base.config)
    cache = DynamicCache()
    model(prompt, past_key_values=cache)
    assert shown[1]["recurrent_state"].shape == (2, 2, 8, 8)
    liza = model.model.layers[0].self_attn
    projected = [torch.randn(3, 4, size) for size in (32, 16, 16)]
    with pytest.raises(ArgumentError, match=r"state remembered is of shape \(2, 2, 8, 8\)"):
        liza.linear_attn(projected, use_cache=True, linear_cache=shown)
