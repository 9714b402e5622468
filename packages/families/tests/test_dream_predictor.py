"""Block-wise decoding, on a tiny Qwen2 of random weights and on networks of the workspace."""

import pytest
import torch
from family_tools import BOS, CLS, MASK, PAD, SEP, TOKENIZER, UNK
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.dream import (
    DreamModel,
    DreamPredCollator,
    DreamPredictor,
    qwen2_backbone,
    shift_logits,
)
from pellucid.families.dream._blocks import block_causal_mask
from pellucid.families.mlm import MLMPredictor, RotaryTransformerMLMModel
from pellucid.xlm.sampling import Texts, block_numbers

FORBIDDEN = torch.tensor([CLS, MASK, BOS, SEP, UNK])


def tiny_model(seed=0, **given):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = qwen2_backbone(len(TOKENIZER), 32, 2, 4, num_kv_heads=2, max_length=64)
        with torch.no_grad():
            for name, weight in backbone.named_parameters():
                if "norm" in name or "bias" in name:
                    weight.add_(0.3 * torch.randn_like(weight))
                else:
                    weight.mul_(10)
    return DreamModel(backbone, **given).double()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def batch(pairs):
    return DreamPredCollator(TOKENIZER, 10, input_block_size=6, add_bos="output")(pairs)


def predictor(model, max_steps=10, max_new_tokens=10, block_size=4, **given):
    given = {"tokenizer": TOKENIZER, "stop_at_eos": False, **given}
    return DreamPredictor(max_steps, max_new_tokens, block_size, model=model, **given)


def sampled(sampler, batch, seed=0):
    sampler.generator = torch.Generator().manual_seed(seed)
    return sampler.predict(batch)


WAYS = [
    {},
    {"temperature": 0.0},
    {"confidence": "prob_diff", "threshold": 1.2},
    {"confidence": "entropy", "confidence_temperature": 0.5, "top_k": 5},
    {"confidence": None, "top_p": 0.9},
    {"stop_at_eos": True},
    {"generate_until": ["3", "4 5"], "force_fill_max": 2},
]
BLOCK_CAUSAL = {"attention": "block_causal"}


# ---- the model -----------------------------------------------------------------------------------


def test_every_token_sees_every_other_that_is_shown(model):
    ids = torch.randint(7, 19, (2, 6))
    shown = torch.ones(2, 6, dtype=torch.bool)
    shown[0, :2] = False
    logits = model(ids, shown)
    for column in range(6):
        changed = ids.clone()
        changed[:, column] = (ids[:, column] - 7 + 1) % 12 + 7
        moved = (model(changed, shown) != logits).any(dim=2)
        if column < 2:
            # What is hidden moves only what is read at its own place, and answers for the next.
            assert moved[0].nonzero()[:, 0].tolist() in ([0, 1], [2])
        else:
            assert moved[0, 3:].all()
        assert moved[1].all()


def test_logits_stand_one_position_early(model):
    backbone = model.backbone
    ids = torch.randint(7, 19, (1, 5))
    full = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    raw = backbone(input_ids=ids, attention_mask=full).logits
    unshifted = DreamModel(backbone, is_shifted=False)
    where = torch.tensor([[False, True, False, True, True]])
    for network, expected in ((model, shift_logits(raw)), (unshifted, raw)):
        assert_close(network(ids), expected)
        assert_close(network(ids, where=where), expected[where])


class Plain(torch.nn.Module):
    """The least that a backbone has to be: no part of transformers, and all its logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask, position_ids, past_key_values, use_cache):
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )


def test_a_backbone_may_be_any_module_that_is_called_alike(model, batch):
    plain = DreamModel(Plain(model.backbone))
    for way in ({}, {**BLOCK_CAUSAL, "use_cache": True}):
        first, second = (sampled(predictor(one, **way), batch) for one in (model, plain))
        assert torch.equal(first["ids"], second["ids"])


def test_padding_moves_no_logits(model):
    ids = torch.randint(7, 19, (1, 6))
    padded = torch.nn.functional.pad(ids, (3, 0))
    found = model(padded, padded != PAD)[:, 4:]
    assert torch.allclose(found, model(ids)[:, 1:], atol=1e-10)


# ---- the sampler ---------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 99),
    way=st.sampled_from(WAYS),
    attention=st.sampled_from(["full", "block_causal"]),
    block_size=st.integers(1, 12),
    steps=st.integers(1, 12),
)
@settings(max_examples=25)
def test_all_is_filled_within_the_steps_and_prompts_stay(seed, way, attention, block_size, steps):
    ids = torch.randint(7, 19, (3, 5), generator=torch.Generator().manual_seed(seed))
    sampler = predictor(tiny_model(), steps, 7, block_size, attention=attention, **way)
    state = torch.get_rng_state()
    found = sampled(sampler, {"input_ids": ids}, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found["ids"][:, :5], ids)
    assert not torch.isin(found["ids"], FORBIDDEN).any()
    assert max(found["steps_taken"]) <= steps


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("is_shifted", [True, False])
def test_what_is_kept_changes_nothing(model, batch, way, is_shifted):
    network = DreamModel(model.backbone, is_shifted=is_shifted)
    for block_size, seed in ((4, 0), (3, 1), (1, 2), (10, 3)):
        plain, cached = (
            sampled(
                predictor(network, block_size=block_size, use_cache=kept, **BLOCK_CAUSAL, **way),
                batch,
                seed,
            )
            for kept in (False, True)
        )
        assert torch.equal(plain["ids"], cached["ids"])
        assert plain["steps_taken"] == cached["steps_taken"]


def test_only_the_present_block_is_read_once_the_others_are_kept(model, batch):
    widths = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    sampled(predictor(model, use_cache=True, **BLOCK_CAUSAL), batch)
    handle.remove()
    # The prompt and a block; the token before the block, and the block; and with the next one.
    assert widths == [10, 5, 5, 5, 9, 5, 5, 5, 7, 3]


def test_with_full_attention_a_cache_would_not_be_exact(model):
    """Why it is refused: a token of a full block does see what is written later."""
    ids = torch.randint(7, 19, (1, 6))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] - 7 + 1) % 12 + 7
    assert (model(ids)[0, 2] != model(changed)[0, 2]).any()
    texts = Texts.of({"input_ids": ids[:, :2]}, tokenizer=TOKENIZER, max_new_tokens=4)
    pairs = block_causal_mask(block_numbers(texts.is_open, 2), texts.shown)
    assert torch.equal(model(ids, pairs)[0, 2:4], model(changed, pairs)[0, 2:4])


def test_a_block_sees_itself_and_those_before_it():
    shown = torch.tensor([[False, True, True, True], [True] * 4])
    mask = block_causal_mask(torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]]), shown)
    assert mask[0].long().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert mask[1].long().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("attention", ["full", "block_causal"])
def test_steps_are_shared_out_over_blocks(model, batch, attention):
    """Where blocks divide the length and steps the blocks, each step fills as many."""
    seen = []
    handle = model.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"][0, 6:] == MASK), with_kwargs=True
    )
    sampler = predictor(model, 6, 12, 4, attention=attention, confidence="entropy")
    sampled(sampler, {**batch, "target_ids": None})
    handle.remove()
    assert [int(open_now.sum()) for open_now in seen] == [12, 10, 8, 6, 4, 2]
    for step, open_now in enumerate(seen):
        assert open_now[4 * (step // 2 + 1) :].all()
        assert not open_now[: 4 * (step // 2)].any()


def naive(model, prompt, n_new, block_size, n_steps):
    """Fill one row, the surest tokens of each block first, by whole reads and loops."""
    row = torch.cat((prompt, torch.full((n_new,), MASK)))
    per_step = n_new // n_steps
    for begin in range(len(prompt), len(row), block_size):
        block = range(begin, begin + block_size)
        while gaps := [at for at in block if row[at] == MASK]:
            full = torch.zeros(1, 1, len(row), len(row), dtype=torch.float64)
            raw = model.backbone(input_ids=row[None], attention_mask=full).logits[0]
            logits = raw.roll(1, dims=0).float()
            logits[:, FORBIDDEN] = -torch.inf
            best = sorted(gaps, key=lambda at: -float(logits[at].softmax(-1).max()))
            for at in best[:per_step]:
                row[at] = logits[at].argmax()
    return row


@pytest.mark.parametrize(("n_steps", "block_size"), [(12, 4), (6, 4), (3, 12), (4, 3)])
def test_best_tokens_are_those_of_a_naive_loop(model, n_steps, block_size):
    prompts = torch.randint(7, 19, (3, 4), generator=torch.Generator().manual_seed(1))
    sampler = predictor(model, n_steps, 12, block_size, temperature=0.0)
    found = sampler.predict({"input_ids": prompts})["ids"]
    with torch.no_grad():
        expected = [naive(model, prompt, 12, block_size, n_steps) for prompt in prompts]
    assert torch.equal(found, torch.stack(expected))


def test_a_network_that_answers_in_place_is_taken_as_it_is(make_model, batch):
    """With the whole text for a block it is the sampler of mlm."""
    network = make_model(RotaryTransformerMLMModel)
    ours = predictor(network, 5, 10, 10, confidence="prob_diff")
    theirs = MLMPredictor(5, 10, TOKENIZER, model=network, confidence="prob_diff")
    assert torch.equal(sampled(ours, batch)["ids"], sampled(theirs, batch)["ids"])
    causal = make_model(RotaryTransformerMLMModel, mix_neighbours=False)
    found = sampled(predictor(causal, **BLOCK_CAUSAL), batch)
    assert not torch.isin(found["ids"][:, 6:], FORBIDDEN).any()


def test_a_hook_can_shift_logits(model, batch):
    hooked = predictor(DreamModel(model.backbone, is_shifted=False), logits_hook=shift_logits)
    assert torch.equal(sampled(hooked, batch)["ids"], sampled(predictor(model), batch)["ids"])


def test_a_text_ends_with_its_strings_or_with_eos(model, batch):
    plain = sampled(predictor(model), batch)
    texts = plain["text"]
    assert all(len(text.split()) > 3 for text in texts)
    word = texts[0].split()[2]
    until = sampled(predictor(model, generate_until=[word], block_size=1), batch)
    free = sampled(predictor(model, block_size=1), batch)
    for short, long, steps in zip(until["text"], free["text"], until["steps_taken"], strict=True):
        if word in long:
            assert long.startswith(short)
            assert word in short.split()[-1]
            assert steps < 10
        else:
            assert short == long
    assert any(word in text for text in free["text"])


def test_text_is_completed(model):
    sampler = predictor(model, add_bos="output")
    first = sampler.generate(["1 2", ""], generator=torch.Generator().manual_seed(0))
    again = sampler.generate(["1 2", ""], generator=torch.Generator().manual_seed(0))
    assert first == again
    assert sampler.to_dict({}, sampled(sampler, {"input_ids": torch.tensor([[7]])}))[0].keys() == {
        "ids",
        "text",
        "time_taken",
        "steps_taken",
    }


def test_bad_input_is_named(model, make_model, batch):
    with pytest.raises(ArgumentError, match="not exact with attention='full'"):
        predictor(model, use_cache=True)
    with pytest.raises(UnknownNameError, match="block_causal"):
        predictor(model, attention="causal")
    with pytest.raises(ArgumentError, match="needs attention='full'"):
        predictor(model, logits_hook=shift_logits, **BLOCK_CAUSAL)
    with pytest.raises(ArgumentError, match=r"threshold=0\.5 needs a confidence"):
        predictor(model, threshold=0.5, confidence=None)
    with pytest.raises(ArgumentError, match="max_new_tokens is 0"):
        predictor(model, max_new_tokens=0)
    with pytest.raises(ArgumentError, match="force_fill_max is -1"):
        predictor(model, force_fill_max=-1)
    with pytest.raises(ArgumentError, match="block_length is 0"):
        predictor(model, block_size=0)
    with pytest.raises(ArgumentError, match="begins with a mask"):
        predictor(model).predict({"input_ids": torch.zeros(1, 0, dtype=torch.long)})
    keeps_nothing = make_model(RotaryTransformerMLMModel)
    with pytest.raises(ArgumentError, match="cannot keep what it read"):
        predictor(keeps_nothing, use_cache=True, **BLOCK_CAUSAL).predict(batch)
