import pytest
import torch
from family_tools import BOS, CLS, EOS, MASK, SEP, TOKENIZER, UNK
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError, UnknownNameError
from pellucid.families.mlm import (
    MLMPredictor,
    MLMSeq2SeqFullPredCollator,
    MLMSeq2SeqPredCollator,
    RotaryTransformerMLMModel,
)
from pellucid.xlm.sampling import DOUBTS, Remasking

FORBIDDEN = torch.tensor([CLS, MASK, BOS, SEP, UNK])


def predictor(model, max_steps=5, max_new_tokens=5, **given):
    return MLMPredictor(max_steps, max_new_tokens, TOKENIZER, model=model, **given)


@pytest.fixture
def batch(pairs):
    return MLMSeq2SeqPredCollator(TOKENIZER, 5, input_block_size=6)(pairs)


WAYS = [
    {"confidence": None},
    {"confidence": None, "temperature": 0.0},
    *({"confidence": name} for name in DOUBTS),
    *({"confidence": name, "threshold": 0.3} for name in DOUBTS),
    {"confidence": "entropy", "threshold": 0.9, "threshold_rule": "dependence"},
    {"confidence": "top_prob", "block_length": 2},
    {"confidence": "entropy", "threshold": 2.0, "block_length": 2},
    {"confidence": None, "block_length": 2, "top_k": 3},
    {"confidence": "prob_diff", "top_p": 0.7, "confidence_temperature": 0.5},
    {"confidence": "top_prob", "remasking": Remasking(count=1, budget=3)},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("max_steps", [1, 2, 3, 5, 50])
def test_all_is_filled_within_the_steps(mlm_model, batch, way, max_steps):
    sampler = predictor(mlm_model, max_steps, **way)
    sampler.generator = torch.Generator().manual_seed(0)
    n_read = []
    handle = mlm_model.register_forward_pre_hook(lambda _, given: n_read.append(len(given[0])))
    found = sampler.predict(batch)
    handle.remove()
    ids = found["ids"]
    assert ids.shape == (3, 11)
    assert torch.equal(ids[:, :6], batch["input_ids"])
    assert not torch.isin(ids[:, 6:], FORBIDDEN).any()
    n_again = 3 if "remasking" in way else 0
    assert max(found["steps_taken"]) <= min(max_steps, 5 + n_again)
    assert sum(n_read) == sum(found["steps_taken"])
    assert found["output_start_idx"] == 6


@given(seed=st.integers(0, 99), way=st.sampled_from(WAYS), steps=st.integers(1, 6))
@settings(max_examples=25)
def test_whatever_the_network_says_what_was_given_stays(seed, way, steps):
    torch.manual_seed(seed)
    model = RotaryTransformerMLMModel(len(TOKENIZER), 16, 1, 2, dropout=0.0, max_length=16)
    ids = torch.randint(7, 19, (4, 8))
    ids[torch.rand(4, 8) < 0.6] = MASK
    before, state = ids.clone(), torch.get_rng_state()
    sampler = predictor(model, steps, None, **way)
    sampler.generator = torch.Generator().manual_seed(seed)
    found = sampler.predict({"input_ids": ids})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ids, before)
    given_at = before != MASK
    assert torch.equal(found["ids"][given_at], before[given_at])
    assert not torch.isin(found["ids"], FORBIDDEN).any()
    n_masks = (before == MASK).sum(1)
    n_again = 3 if "remasking" in way else 0
    assert (torch.tensor(found["steps_taken"]) <= (n_masks + n_again).clamp(max=steps)).all()


def naive(model, row, n_steps, doubt):
    """Fill one row, best token first, evenly over the steps."""
    row = row.clone()
    for steps_left in range(n_steps, 0, -1):
        gaps = (row == MASK).nonzero()[:, 0].tolist()
        if not gaps:
            break
        logits = model(row[None])[0]
        logits[:, FORBIDDEN] = -torch.inf
        doubts = [(doubt(logits[at].softmax(-1)).item(), at) for at in gaps]
        n_now = -(-len(gaps) // steps_left)
        for _, at in sorted(doubts)[:n_now]:
            row[at] = logits[at].argmax()
    return row


@pytest.mark.parametrize("confidence", DOUBTS)
@pytest.mark.parametrize("max_steps", [1, 2, 3, 5])
def test_the_surest_come_first(mlm_model, confidence, max_steps):
    rows = torch.tensor([[7, MASK, MASK, 9, MASK, MASK, MASK], [MASK, 8, 8, 8, 8, 8, 8]])
    sampler = predictor(mlm_model, max_steps, None, confidence=confidence, temperature=0.0)
    found = sampler.predict({"input_ids": rows})["ids"]
    mlm_model.eval()
    with torch.no_grad():
        expected = [naive(mlm_model, row, max_steps, DOUBTS[confidence]) for row in rows]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_row_does_not_care_who_is_in_its_batch(mlm_model, batch, way):
    greedy = {**way, "temperature": 0.0, "confidence": way["confidence"] or "top_prob"}
    together = predictor(mlm_model, **greedy).predict(batch)
    for row in range(3):
        one = {name: held[row : row + 1] for name, held in batch.items()}
        alone = predictor(mlm_model, **greedy).predict(one)
        assert torch.equal(alone["ids"][0], together["ids"][row])
        assert alone["steps_taken"][0] == together["steps_taken"][row]


def test_blocks_are_filled_from_left_to_right(mlm_model):
    seen = []

    def watch(_, given, logits):
        seen.append(given[0][0].clone())

    handle = mlm_model.register_forward_hook(watch)
    sampler = predictor(mlm_model, 6, None, confidence="top_prob", block_length=2)
    sampler.predict({"input_ids": torch.tensor([[7, *[MASK] * 6]])})
    handle.remove()
    assert len(seen) == 6
    for step, ids in enumerate(seen):
        n_whole = step // 2 * 2
        assert (ids[1 : 1 + n_whole] != MASK).all()
        assert (ids[1 + n_whole + 2 :] == MASK).all()


def test_padding_changes_nothing(mlm_model, pairs):
    narrow = MLMSeq2SeqPredCollator(TOKENIZER, 5, input_block_size=6, truncate="max")(pairs)
    wide = MLMSeq2SeqPredCollator(TOKENIZER, 5, input_block_size=9)(pairs)
    full = MLMSeq2SeqFullPredCollator(TOKENIZER, 5, input_block_size=9)(pairs)
    sampler = predictor(mlm_model, confidence="top_prob", temperature=0.0)
    first, second = (sampler.predict(one)["ids"][:, -5:] for one in (narrow, wide))
    assert torch.equal(first, second)
    sampler.max_new_tokens = None
    assert torch.equal(sampler.predict(full)["ids"][:, -5:], first)


def test_a_text_without_masks_is_not_read(mlm_model):
    ids = torch.tensor([[7, 8], [9, MASK]])
    found = predictor(mlm_model, max_new_tokens=None).predict({"input_ids": ids})
    assert found["steps_taken"] == [0, 1]
    assert found["ids"][0].tolist() == [7, 8]


def test_logits_can_be_changed_on_their_way(mlm_model):
    sampler = predictor(
        mlm_model,
        max_new_tokens=None,
        temperature=0.0,
        logits_hook=lambda logits: torch.zeros_like(logits).index_fill(
            -1, torch.tensor([9, MASK]), 5.0
        ),
    )
    found = sampler.predict({"input_ids": torch.tensor([[7, MASK, MASK]])})
    assert found["ids"].tolist() == [[7, 9, 9]]


def test_text_is_completed_or_filled(mlm_model):
    completing = predictor(mlm_model)
    generator = torch.Generator().manual_seed(0)
    first = completing.generate(["1 2", ""], generator=generator)
    assert first != completing.generate(["1 2", ""], generator=generator)
    assert first == completing.generate(["1 2", ""], generator=generator.manual_seed(0))
    filling = predictor(mlm_model, max_new_tokens=None)
    assert filling.generate(["1 [MASK] 3"])[0].startswith("1 ")
    assert completing.generate([]) == []


def test_records_hold_what_was_written(mlm_model, batch):
    sampler = predictor(mlm_model)
    found = sampler.predict(batch)
    records = sampler.to_dict(batch, found)
    assert [record["text"] for record in records] == found["text"]
    assert set(records[0]) == {"ids", "text", "time_taken", "steps_taken"}
    for text, ids in zip(found["text"], found["ids"][:, 6:].tolist(), strict=True):
        end = ids.index(EOS) if EOS in ids else len(ids)
        assert text == TOKENIZER.decode(ids[:end], skip_special_tokens=True)


def test_bad_input_is_named(mlm_model):
    with pytest.raises(ArgumentError, match="exclude each other"):
        predictor(mlm_model, top_k=2, top_p=0.5)
    with pytest.raises(ArgumentError, match=r"threshold=0\.1 needs a confidence"):
        predictor(mlm_model, threshold=0.1)
    with pytest.raises(UnknownNameError, match="top_prob"):
        predictor(mlm_model, confidence="topprob")
    with pytest.raises(UnknownNameError, match="dependence"):
        predictor(mlm_model, confidence="entropy", threshold=1.0, threshold_rule="independence")
    with pytest.raises(ArgumentError, match="max_steps is 0"):
        predictor(mlm_model, max_steps=0)
    with pytest.raises(ArgumentError, match="block_length is -1"):
        predictor(mlm_model, block_length=-1)
