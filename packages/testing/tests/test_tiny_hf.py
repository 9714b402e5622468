"""Tiny Hugging Face models and tokenizers: seeded, random everywhere, made in no time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pellucid.core import ArgumentError, as_tokenizer
from pellucid.testing import (
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)
from pellucid.testing._tiny_hf_tokenizers import _train_bpe

BUILDERS = [tiny_llama, tiny_gpt2, tiny_bert]
IDS = torch.randint(200, (3, 7), generator=torch.Generator().manual_seed(0))


def run(model):
    output = model(input_ids=IDS)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize("build", BUILDERS)
def test_one_seed_is_one_model(build):
    one, same, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(run(one), run(same))
    assert not torch.allclose(run(one), run(other))


@pytest.mark.parametrize("build", BUILDERS)
def test_no_generator_is_touched(build):
    import random

    import numpy as np

    build()  # what libraries do when first imported is theirs
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    build()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


@pytest.mark.parametrize("build", BUILDERS)
def test_every_weight_is_random(build):
    for name, weight in build().named_parameters():
        assert weight.numel() == 1 or weight.std() > 0.01, f"{name} is constant"


@pytest.mark.parametrize("build", BUILDERS)
def test_models_are_in_eval_mode_and_float32(build):
    model = build()
    assert not any(module.training for module in model.modules())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    wide = build(dtype=torch.float64)
    assert torch.allclose(run(wide).float(), run(model), atol=1e-4)
    assert {weight.dtype for weight in build(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_logits_differ_clearly_between_tokens(build):
    assert run(build()).std(dim=-1).min() > 0.5


@pytest.mark.parametrize("build", BUILDERS)
def test_the_vocabulary_is_the_tokenizers(build):
    tokenizer = tiny_wordpiece_tokenizer() if build is tiny_bert else tiny_tokenizer()
    rows = [build(padded_rows=n).get_input_embeddings().num_embeddings for n in (0, 5)]
    assert rows == [len(tokenizer), len(tokenizer) + 5]
    assert build(vocab_size=999).get_input_embeddings().num_embeddings == 999


def test_config_fields_are_taken():
    assert tiny_llama(num_hidden_layers=3).config.num_hidden_layers == 3
    assert tiny_gpt2(n_layer=1).config.n_layer == 1
    assert tiny_bert(hidden_size=16, num_attention_heads=2).config.hidden_size == 16
    biased = tiny_llama(attention_bias=True, mlp_bias=True)
    biases = [m.bias for m in biased.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert len(biases) == 2 * 7
    assert all(bias.abs().max() > 0 for bias in biases)


def test_tied_weights_stay_tied():
    model = tiny_gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight


def test_models_generate():
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    ids = tokenizer("The cat", return_tensors="pt")
    new = model.generate(**ids, max_new_tokens=4, do_sample=False)
    assert new.shape[1] <= ids["input_ids"].shape[1] + 4


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_dtype_that_is_no_float_is_refused(dtype):
    with pytest.raises(ArgumentError, match="float type"):
        tiny_llama(dtype=dtype)


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_byte_level_texts_come_back(text):
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_tokenizer_has_a_chat_template():
    tokenizer = tiny_tokenizer()
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|begin|><|turn|>user\nHello<|turn_end|>\n<|turn|>assistant\n"
    ids = tokenizer.encode(text)
    special = set(as_tokenizer(tokenizer).all_special_ids)
    assert [i for i in ids if i in special] == [0, 3, 4, 3]
    assert tokenizer.unk_token is None
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3


def test_encoding_adds_nothing():
    assert 0 not in tiny_tokenizer()("cat")["input_ids"]


def test_tokenizers_are_trained_once_and_share_nothing():
    one = tiny_tokenizer()
    trained = _train_bpe.cache_info().misses
    two = tiny_tokenizer()
    assert _train_bpe.cache_info().misses == trained
    one.padding_side = "left"
    one.add_tokens(["zzz"])
    assert (len(two), two.padding_side) == (384, "right")


def test_the_training_has_a_size_and_a_seed():
    assert len(tiny_tokenizer(300)) == 300
    assert tiny_tokenizer(seed=1).get_vocab() != tiny_tokenizer(seed=0).get_vocab()
    assert tiny_tokenizer(seed=1).get_vocab() == tiny_tokenizer(seed=1).get_vocab()
    with pytest.raises(ArgumentError, match="261 or more, got 100"):
        tiny_tokenizer(100)


def test_the_wordpiece_tokenizer_is_like_berts():
    tokenizer = tiny_wordpiece_tokenizer()
    ids = tokenizer("The CAT likes music")["input_ids"]
    assert tokenizer.decode(ids) == "[CLS] the cat likes music [SEP]"
    assert tokenizer.decode(tokenizer.encode("\u2603", add_special_tokens=False)) == "[UNK]"
    batch = tokenizer(["the cat", "a"], padding=True, return_tensors="pt")
    assert tiny_bert()(**batch).last_hidden_state.isfinite().all()
