import itertools
import math

import pytest
import torch
from family_tools import BOS, CLS, IDS, PAD, TOKENIZER, seeded
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.ilm import (
    DefaultILMCollator,
    ILMEmptyDataset,
    ILMSeq2SeqCollator,
    ILMSeq2SeqPredCollator,
    print_batch_ilm,
)


def put_back(batch, row):
    """Insert what was dropped where the batch says, and return the text of a row."""
    ids = batch["input_ids"][row].tolist()
    gaps = {
        column: [token] for column, token in enumerate(ids) if batch["attention_mask"][row, column]
    }
    for token, slot in zip(batch["target_ids"][row], batch["target_slots"][row], strict=True):
        if slot != -100:
            gaps[int(slot)].append(int(token))
    return [token for column in sorted(gaps) for token in gaps[column]]


@given(rows=st.lists(IDS, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_what_is_dropped_belongs_where_the_batch_says(rows, seed):
    collator = seeded(DefaultILMCollator(TOKENIZER, 7), seed)
    batch = collator([{"input_ids": row} for row in rows])
    assert batch["input_ids"].shape == (len(rows), 7)
    for row, ids in enumerate(rows):
        assert put_back(batch, row) == [CLS, BOS, *ids]
        assert batch["target_ids"][row].tolist() == ids + [-100] * (5 - len(ids))
        n_shown = int(batch["attention_mask"][row].sum())
        n_dropped = int((batch["target_slots"][row] != -100).sum())
        assert n_shown + n_dropped == 2 + len(ids)
        assert batch["attention_mask"][row].tolist() == [at < n_shown for at in range(7)]
        assert (batch["input_ids"][row, n_shown:] == PAD).all()
        types = [0, *[2] * (n_shown - 1), *[-1] * (7 - n_shown)]
        assert batch["token_type_ids"][row].tolist() == types


@given(pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_only_suffixes_lose_tokens(pairs, seed):
    examples = [{"prompt_ids": prompt, "input_ids": suffix} for prompt, suffix in pairs]
    fixed, narrow = (
        seeded(ILMSeq2SeqCollator(TOKENIZER, 5, input_block_size=8, truncate=how), seed)(examples)
        for how in ("block", "max")
    )
    assert fixed["input_ids"].shape[1] == 13
    assert narrow["input_ids"].shape[1] == int(narrow["attention_mask"].sum(1).max())
    for row, (prompt, suffix) in enumerate(pairs):
        for batch in (fixed, narrow):
            assert put_back(batch, row) == [CLS, *prompt, BOS, *suffix]
            types, n_before = batch["token_type_ids"][row], len(prompt) + 1
            assert types[:n_before].tolist() == [0, *[1] * len(prompt)]
            n_kept = int((types == 2).sum())
            assert types[n_before : n_before + n_kept].unique().tolist() == [2]
            slots = batch["target_slots"][row]
            assert (slots[slots != -100] >= n_before).all()


def test_every_set_of_dropped_tokens_is_as_likely_as_its_size_says():
    """A number is uniform, and so is a set of that number: (n + 1) C(n, k) sets, each with one."""
    n, n_rows = 4, 40_000
    collator = seeded(DefaultILMCollator(TOKENIZER, 2 + n))
    is_dropped = collator([{"input_ids": [7, 8, 9, 10]}] * n_rows)["target_slots"] != -100
    counts = is_dropped.sum(1).bincount(minlength=n + 1) / n_rows
    # Stratified, numbers are exact but for the ends of strata.
    torch.testing.assert_close(counts, torch.full((n + 1,), 1 / (n + 1)), rtol=0, atol=2e-4)
    seen = (is_dropped.long() * 2 ** torch.arange(n)).sum(1).bincount(minlength=2**n) / n_rows
    for which in itertools.product((0, 1), repeat=n):
        expected = 1 / ((n + 1) * math.comb(n, sum(which)))
        deviation = math.sqrt(expected * (1 - expected) / n_rows)
        index = sum(bit << place for place, bit in enumerate(which))
        # Five deviations of 16 independent counts: wrong once in 100,000.
        assert abs(float(seen[index]) - expected) < 5 * deviation, which


def test_rows_of_different_lengths_have_numbers_of_their_own():
    collator = seeded(DefaultILMCollator(TOKENIZER, 7))
    examples = [{"input_ids": [7] * (row % 6)} for row in range(12_000)]
    n_dropped = (collator(examples)["target_slots"] != -100).sum(1)
    for length in range(6):
        rates = n_dropped[length::6].bincount(minlength=length + 1) / 2000
        torch.testing.assert_close(
            rates, torch.full((length + 1,), 1 / (length + 1)), rtol=0, atol=0.05
        )


def test_another_noise_can_be_put_in(texts):
    class DropAll(DefaultILMCollator):
        def choose_drops(self, is_token):
            return is_token

    batch = DropAll(TOKENIZER, 8)(texts)
    assert batch["attention_mask"].sum(1).tolist() == [2, 2, 2]
    assert (batch["target_slots"] == 1).sum(1).tolist() == [3, 1, 5]


def test_the_generator_decides_all(texts):
    before = torch.get_rng_state()
    collator = DefaultILMCollator(TOKENIZER, 9)
    first, again = (seeded(collator)(texts)["target_slots"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, seeded(collator, 1)(texts)["target_slots"])
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_end_with_bos_in_the_last_column(pairs):
    batch = ILMSeq2SeqPredCollator(TOKENIZER, 5, input_block_size=8)(pairs)
    assert batch["input_ids"].shape == (3, 8)
    for row, pair in enumerate(pairs):
        given_ids = [CLS, *pair["prompt_ids"], BOS]
        n_pads = 8 - len(given_ids)
        assert batch["input_ids"][row].tolist() == [PAD] * n_pads + given_ids
        types = [-1] * n_pads + [0, *[1] * len(pair["prompt_ids"]), 2]
        assert batch["token_type_ids"][row].tolist() == types
        assert batch["attention_mask"][row].tolist() == [kind != -1 for kind in types]
        suffix = pair["input_ids"]
        assert batch["target_ids"][row].tolist() == suffix + [PAD] * (5 - len(suffix))


def test_empty_prompts_are_cls_and_bos():
    dataset = ILMEmptyDataset(TOKENIZER, 2)
    batch = ILMSeq2SeqPredCollator(TOKENIZER, 5, input_block_size=2)(list(dataset))
    assert batch["input_ids"].tolist() == [[CLS, BOS]] * len(dataset)
    assert batch["token_type_ids"].tolist() == [[0, 2]] * 2
    with pytest.raises(IndexError):
        dataset[2]


def test_a_batch_can_be_shown(pairs, capsys):
    batch = seeded(ILMSeq2SeqCollator(TOKENIZER, 5, input_block_size=8))(pairs)
    print_batch_ilm(batch, "val", TOKENIZER, "lm")
    shown = capsys.readouterr().out
    assert "val/lm: 3 rows" in shown
    assert "[CLS] 1 2 3 [BOS]" in shown


def test_bad_input_is_named(pairs):
    with pytest.raises(ArgumentError, match="a suffix has 3 tokens and does not fit"):
        ILMSeq2SeqPredCollator(TOKENIZER, 2, input_block_size=8)(pairs)
    with pytest.raises(ArgumentError, match="a prompt has 6 tokens, BOS included, and does not"):
        ILMSeq2SeqCollator(TOKENIZER, 5, input_block_size=5)(pairs)
    with pytest.raises(ArgumentError, match="block_size is 2; leave room"):
        DefaultILMCollator(TOKENIZER, 2)

    class Clsless:
        pad_token_id, eos_token_id, bos_token_id = 0, 1, 2

    with pytest.raises(RequirementError, match="no special token for cls"):
        DefaultILMCollator(Clsless(), 5)
