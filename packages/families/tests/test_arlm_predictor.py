import pytest
import torch
from family_tools import BOS, CLS, EOS, MASK, PAD, SEP, TOKENIZER, UNK
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.arlm import (
    ARLMPredictor,
    ARLMSeq2SeqPredCollator,
    RotaryTransformerARLMModel,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts(pairs):
    collator = ARLMSeq2SeqPredCollator(
        TOKENIZER, 5, input_block_size=6, add_bos="output", add_eos=True
    )
    return collator(pairs)


@pytest.fixture
def batch(pairs):
    return prompts(pairs)


def predictor(model, **given):
    given = {"max_steps": 8, **given}
    return ARLMPredictor(tokenizer=TOKENIZER, model=model, **given)


METHODS = [
    {"sampling_method": "sample"},
    {"sampling_method": "sample", "temperature": 0.7},
    {"sampling_method": "sample_top_k", "top": 3},
    {"sampling_method": "sample_top_p", "p": 0.6},
    {"temperature": 0.0},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("mix", [False, True])
def test_what_is_kept_changes_nothing(make_model, batch, method, mix):
    model = make_model(RotaryTransformerARLMModel, mix_neighbours=mix)
    drawn = []
    for use_cache in (True, False):
        sampler = predictor(model, use_cache=use_cache, **method)
        sampler.generator = generator()
        drawn.append(sampler.predict(batch))
    assert torch.equal(drawn[0]["ids"], drawn[1]["ids"])
    assert drawn[0]["steps_taken"] == drawn[1]["steps_taken"]


def naive_greedy(model, prompt, room):
    row = list(prompt)
    for _ in range(room):
        logits = model(torch.tensor([row]))[0, -1]
        logits[[PAD, CLS, MASK, BOS, SEP, UNK]] = -torch.inf
        row.append(int(logits.argmax()))
        if row[-1] == EOS:
            break
    return row[len(prompt) :]


def test_the_best_tokens_are_those_of_each_text_alone(arlm_model, batch, pairs):
    arlm_model.eval()
    found = predictor(arlm_model, temperature=0.0).predict(batch)
    for row, pair in enumerate(pairs):
        with torch.no_grad():
            naive = naive_greedy(arlm_model, [*pair["prompt_ids"], BOS], 8)
        written = found["ids"][row, 6:].tolist()
        assert written == naive + [PAD] * (8 - len(naive))
        assert found["steps_taken"][row] == len(naive)


@given(seed=st.integers(0, 99))
@settings(max_examples=20)
def test_prompts_stay_and_no_special_token_is_written(seed):
    torch.manual_seed(seed)
    model = RotaryTransformerARLMModel(len(TOKENIZER), 16, 1, 2, dropout=0.0, max_length=32)
    rows = [{"prompt_ids": [7, 8, 9][:length], "input_ids": []} for length in (0, 1, 3)]
    batch, before = prompts(rows), torch.get_rng_state()
    sampler = predictor(model)
    sampler.generator = generator(seed)
    found = sampler.predict(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found["ids"][:, :6], batch["input_ids"])
    for written in found["ids"][:, 6:].tolist():
        end = written.index(EOS) if EOS in written else len(written)
        assert all(token > UNK for token in written[:end])
        assert all(token == PAD for token in written[end + 1 :])


def test_a_row_does_not_care_who_is_in_its_batch(arlm_model, batch):
    together = predictor(arlm_model, temperature=0.0).predict(batch)
    for row in range(3):
        one = {name: held[row : row + 1] for name, held in batch.items()}
        alone = predictor(arlm_model, temperature=0.0).predict(one)
        assert torch.equal(alone["ids"][0], together["ids"][row])


def test_rows_that_ended_are_not_read_again(arlm_model, batch):
    n_read = []
    handle = arlm_model.register_forward_pre_hook(lambda _, given: n_read.append(len(given[0])))
    sampler = predictor(arlm_model, max_length=40)
    sampler.generator = generator(3)
    found = sampler.predict(batch)
    handle.remove()
    assert n_read == sorted(n_read, reverse=True)
    assert sum(n_read) == sum(found["steps_taken"])
    assert min(found["steps_taken"]) < max(found["steps_taken"])


def test_the_network_is_left_as_it_was(arlm_model, batch):
    arlm_model.train()
    arlm_model.layers[0].eval()
    predictor(arlm_model).predict(batch)
    assert arlm_model.training
    assert not arlm_model.layers[0].training
    assert all(weight.grad is None for weight in arlm_model.parameters())


def test_records_hold_what_was_written(arlm_model, batch):
    sampler = predictor(arlm_model)
    found = sampler.predict(batch)
    records = sampler.to_dict(batch, found)
    assert [record["text"] for record in records] == found["text"]
    assert set(records[0]) == {"ids", "text", "text_with_spl_tokens", "time_taken", "steps_taken"}
    assert found["output_start_idx"] == 6
    assert found["text_with_spl_tokens"][0].startswith(found["text"][0])
    assert found["positions"].shape == found["attention_mask"].shape == found["ids"].shape


def test_text_is_completed(arlm_model):
    sampler = predictor(arlm_model, add_bos="output")
    first = sampler.generate(["1 2", ""], generator=generator())
    assert first == sampler.generate(["1 2", ""], generator=generator())
    assert len(first) == 2
    assert sampler.generator is None
    assert sampler.generate([]) == []


def test_steps_are_limited(arlm_model, batch):
    found = predictor(arlm_model, max_steps=3).predict(batch)
    assert found["ids"].shape[1] == 9
    assert max(found["steps_taken"]) <= 3


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_length_counts_the_tokens_of_a_row_and_no_padding(arlm_model, use_cache):
    prompts = torch.tensor([[PAD, PAD, PAD, 9], [7, 8, 9, 7]])
    batch = {"input_ids": prompts, "attention_mask": prompts != PAD}
    given = {"max_length": 6, "use_cache": use_cache, "temperature": 0.0}
    together = predictor(arlm_model, **given).predict(batch)
    lengths = together["attention_mask"].sum(dim=1).tolist()
    ended = (together["ids"] == TOKENIZER.eos_token_id).any(dim=1).tolist()
    assert all(length == 6 or end for length, end in zip(lengths, ended, strict=True))
    assert not all(ended)
    alone = predictor(arlm_model, **given).predict(
        {"input_ids": prompts[:1, 3:], "attention_mask": torch.ones(1, 1, dtype=torch.bool)}
    )
    assert together["text"][0] == alone["text"][0]
    assert together["steps_taken"][0] == alone["steps_taken"][0]


def test_bad_input_is_named(arlm_model, batch):
    with pytest.raises(ArgumentError, match="takes 5 of at most 5 tokens"):
        predictor(arlm_model, max_length=5).predict(batch)
    with pytest.raises(ArgumentError, match="both None"):
        ARLMPredictor()
    with pytest.raises(ArgumentError, match="max_steps is 0; give a positive number"):
        ARLMPredictor(max_steps=0)
    with pytest.raises(ArgumentError, match="max_length is -3; give a positive number"):
        ARLMPredictor(max_length=-3)
    with pytest.raises(UnknownNameError, match="sample_top_k"):
        predictor(arlm_model, sampling_method="sample_topk")
    with pytest.raises(ArgumentError, match="top_k is 0"):
        predictor(arlm_model, sampling_method="sample_top_k", top=0)
    with pytest.raises(ArgumentError, match="a prompt is empty"):
        predictor(arlm_model).generate([""])
