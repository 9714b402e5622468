"""A window of softmax attention whose cache stays small is the window of a full computation."""

import copy
import itertools

import pytest
import torch
from transformers import DynamicCache

from pellucid.core import ArgumentError
from pellucid.testing import tiny_gpt2, tiny_llama
from pellucid.tptt import _window as window_module
from pellucid.tptt import get_tptt_model
from pellucid.tptt._window import WindowedLayer

WINDOW = 5
BASES = {
    "sdpa": tiny_llama,
    "eager": lambda: tiny_llama(attn_implementation="eager"),
    "gpt2": tiny_gpt2,
}


def convert(base, **options):
    options = {"max_self_attn_length": WINDOW, **options}
    return get_tptt_model(base, base.config, **options)[0]


@pytest.fixture(scope="module", params=BASES)
def model(request):
    return convert(BASES[request.param]())


@pytest.fixture(autouse=True)
def _no_spare(monkeypatch):
    monkeypatch.setattr(window_module, "_SPARE", 3)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=3e-5)


def held(cache):
    return [layer.keys.shape[-2] for layer in cache.layers]


@pytest.fixture
def ids():
    return torch.randint(5, 200, (2, 30), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("given", [True, False], ids=["with config", "without"])
@pytest.mark.parametrize("cuts", [[12], [3, 4, 5], [1, 9, 20], [4, 17]])
@torch.no_grad()
def test_calls_that_go_on_are_one_call_in_bounded_memory(model, ids, cuts, given):
    whole = model(ids, use_cache=False).logits
    cache = DynamicCache(config=model.config) if given else DynamicCache()
    edges = [0, *cuts, *range(cuts[-1] + 1, 31)]
    parts = []
    for a, b in itertools.pairwise(edges):
        parts.append(model(ids[:, a:b], past_key_values=cache).logits)
        assert max(held(cache)) <= WINDOW - 1 + 3
    close(torch.cat(parts, dim=1), whole)
    assert cache.get_seq_length() == 30
    assert all(isinstance(layer, WindowedLayer) for layer in cache.layers)


@torch.no_grad()
def test_padded_rows_are_each_by_itself(model, ids):
    options = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    mask = torch.ones_like(ids[:, :12])
    mask[0, :4] = 0
    both = model.generate(ids[:, :12], attention_mask=mask, **options)
    alone = model.generate(ids[:1, 4:12], attention_mask=mask[:1, 4:], **options)
    assert torch.equal(both[0, 12:], alone[0, 8:])


@pytest.mark.parametrize("way", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}])
@torch.no_grad()
def test_generation_is_that_without_a_cache(model, ids, way):
    options = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    options |= {"attention_mask": torch.ones_like(ids[:1, :12])}
    without = {name: value for name, value in way.items() if name == "num_beams"}
    expected = model.generate(ids[:1, :12], use_cache=False, **options, **without)
    assert torch.equal(model.generate(ids[:1, :12], **options, **way), expected)


@torch.no_grad()
def test_tokens_can_be_taken_back_as_far_as_they_are_held(model, ids):
    cache = DynamicCache()
    model(ids[:, :9], past_key_values=cache)
    model(ids[:, 9:12], past_key_values=cache)
    cache.crop(-2)
    assert cache.get_seq_length() == 10
    rest = model(ids[:, 10:14], past_key_values=cache).logits
    close(rest, model(ids[:, :14], use_cache=False).logits[:, 10:])
    with pytest.raises(ArgumentError, match=r"4 tokens cannot be taken back.*3 at most"):
        cache.layers[0].crop(-4)
    cache.reset()
    close(model(ids[:, :9], past_key_values=cache).logits, model(ids[:, :9]).logits)


@torch.no_grad()
def test_without_a_linear_branch_memory_is_bounded_too(ids):
    model = convert(tiny_llama(), mag_weight=0.0)
    whole, cache = model(ids, use_cache=False).logits, DynamicCache()
    parts = [model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(30)]
    close(torch.cat(parts, dim=1), whole)
    assert max(held(cache)) <= WINDOW - 1 + 3


@torch.no_grad()
def test_where_other_layers_see_all_nothing_is_forgotten(ids):
    base = tiny_llama()
    model = convert(copy.deepcopy(base), target_modules=["1.self_attn"])
    whole, cache = model(ids, use_cache=False).logits, DynamicCache()
    parts = [model(ids[:, t : t + 1], past_key_values=cache).logits for t in range(30)]
    close(torch.cat(parts, dim=1), whole)
    assert held(cache) == [30, 30]


@torch.no_grad()
def test_a_cache_that_holds_keys_already_keeps_them(ids):
    model = convert(tiny_llama())
    cache = DynamicCache()
    tiny_llama()(ids[:, :9], past_key_values=cache)
    model(ids[:, 9:12], past_key_values=cache)
    assert held(cache) == [12, 12]
