import pytest
import torch
from family_tools import BOS, EOS, IDS, MASK, PAD, TOKENIZER, seeded, unmasked
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.mlm import (
    DefaultInfillMLMCollator,
    DefaultMLMCollator,
    MLMEmptyDataset,
    MLMEmptyDatasetFromLengthRef,
    MLMInfillPredCollator,
    MLMInfillWithExactTargetPredCollator,
    MLMSeq2SeqCollator,
    MLMSeq2SeqFullPredCollator,
    MLMSeq2SeqPredCollator,
    MLMSeq2SeqTrainCollator,
    PackedMLMCollator,
    print_batch_mlm,
)
from pellucid.xlm.datamodule import pack_sequences


def clean(batch):
    """Return the texts without masks, of which each has one if anything is asked of it."""
    is_masked, is_eligible = batch["input_ids"] == MASK, batch["target_ids"] != -100
    assert (is_masked.any(1) == is_eligible.any(1)).all()
    return unmasked(batch)


@given(rows=st.lists(IDS, min_size=1, max_size=4), on_padding=st.booleans())
def test_a_text_is_masked_and_else_as_it_was(rows, on_padding):
    collator = seeded(DefaultMLMCollator(TOKENIZER, 7, loss_on_padding=on_padding))
    batch = collator([{"input_ids": row} for row in rows])
    for row, ids in enumerate(rows):
        full = [BOS, *ids, EOS]
        n_pads = 7 - len(full)
        assert clean(batch)[row].tolist() == full + [PAD] * n_pads
        assert batch["attention_mask"][row].tolist() == [True] * len(full) + [on_padding] * n_pads
        n_eligible = 6 if on_padding else len(full) - 1
        assert (batch["target_ids"][row] != -100).sum() == n_eligible
        assert batch["target_ids"][row, 0] == -100


def test_every_number_of_masks_is_as_likely_and_every_place():
    collator = seeded(DefaultMLMCollator(TOKENIZER, 6, add_eos=False))
    batch = collator([{"input_ids": [7, 8, 9, 10, 11]}] * 6000)
    is_masked = batch["input_ids"] == MASK
    rates = is_masked.sum(1).bincount(minlength=6)[1:] / 6000
    torch.testing.assert_close(rates, torch.full((5,), 0.2), rtol=0, atol=0.002)
    places = is_masked[:, 1:].float().mean(0)
    torch.testing.assert_close(places, torch.full((5,), 0.6), rtol=0, atol=0.03)


def test_the_generator_decides_all(texts):
    before = torch.get_rng_state()
    collator = DefaultMLMCollator(TOKENIZER, 9)
    first, again = (seeded(collator)(texts)["input_ids"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, seeded(collator, 1)(texts)["input_ids"])
    assert torch.equal(torch.get_rng_state(), before)


SETTINGS = {"input_block_size": 6, "add_bos": "output"}


@given(pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), on_padding=st.booleans())
def test_suffixes_follow_prompts_without_a_gap(pairs, on_padding):
    collator = MLMSeq2SeqTrainCollator(TOKENIZER, 7, loss_on_padding=on_padding, **SETTINGS)
    batch = seeded(collator)([{"prompt_ids": p, "input_ids": s} for p, s in pairs])
    for row, (prompt, suffix) in enumerate(pairs):
        text = [*prompt, BOS, *suffix, EOS]
        assert clean(batch)[row].tolist() == text + [PAD] * (13 - len(text))
        n_shown = len(prompt) + 8 if on_padding else len(text)
        assert batch["attention_mask"][row].tolist() == [at < n_shown for at in range(13)]
        is_asked = [len(prompt) < at < n_shown for at in range(13)]
        assert (batch["target_ids"][row] != -100).tolist() == is_asked


def test_both_layouts_say_the_same(pairs):
    learnt = clean(seeded(MLMSeq2SeqCollator(TOKENIZER, 5, **SETTINGS))(pairs))
    asked = MLMSeq2SeqPredCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    full = MLMSeq2SeqFullPredCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    assert torch.equal(torch.cat((asked["input_ids"], asked["target_ids"]), dim=1), learnt)
    assert torch.equal(full["target_ids"], learnt)
    assert torch.equal(full["input_ids"][:, :6], asked["input_ids"])
    assert (full["input_ids"][:, 6:] == MASK).all()
    assert torch.equal(full["fixed_positions_mask"], full["input_ids"] != MASK)
    flush = clean(seeded(MLMSeq2SeqTrainCollator(TOKENIZER, 5, **SETTINGS))(pairs))
    for one, other in zip(flush.tolist(), learnt.tolist(), strict=True):
        assert [id_ for id_ in one if id_ != PAD] == [id_ for id_ in other if id_ != PAD]


def test_fields_are_passed_through(pairs):
    named = [{**pair, "answer": str(row)} for row, pair in enumerate(pairs)]
    collator = MLMSeq2SeqPredCollator(TOKENIZER, 5, pass_through_fields=["answer"], **SETTINGS)
    assert collator(named)["answer"] == ["0", "1", "2"]


PUZZLES = [
    {"input_ids": [7, MASK, MASK, 8], "target_ids": [7, 9, 10, 8]},
    {"input_ids": [MASK, 8], "target_ids": [11, 8]},
]


def test_gaps_are_masked_and_clues_stay():
    batch = seeded(DefaultInfillMLMCollator(TOKENIZER, 5))(PUZZLES)
    assert clean(batch).tolist() == [[7, 9, 10, 8, PAD], [11, 8, PAD, PAD, PAD]]
    assert (batch["target_ids"] != -100).tolist()[0] == [False, True, True, False, False]
    assert batch["attention_mask"].sum(1).tolist() == [4, 2]
    asked = MLMInfillWithExactTargetPredCollator(TOKENIZER, 5)(PUZZLES)
    assert asked["input_ids"].tolist() == [[7, MASK, MASK, 8, PAD], [MASK, 8, PAD, PAD, PAD]]
    assert torch.equal(asked["target_ids"], clean(batch))
    assert torch.equal(asked["fixed_positions_mask"], asked["input_ids"] != MASK)


def test_packed_texts_say_which_is_which(texts):
    columns = {"input_ids": [text["input_ids"] for text in texts]}
    packed = pack_sequences(columns, TOKENIZER, 6, with_segments=True)
    rows = [dict(zip(packed, cells, strict=True)) for cells in zip(*packed.values(), strict=True)]
    batch = seeded(PackedMLMCollator(TOKENIZER, 6))(rows)
    assert clean(batch).tolist() == packed["input_ids"]
    assert batch["segment_ids"].tolist() == packed["segment_ids"]
    assert batch["positions"].tolist() == packed["positions"]


def test_empty_texts_are_masks():
    dataset = MLMEmptyDataset(TOKENIZER, 2, max_length=4)
    batch = MLMInfillPredCollator(TOKENIZER, 4)(list(dataset))
    assert batch["input_ids"].tolist() == [[BOS, MASK, MASK, MASK]] * len(dataset)
    with pytest.raises(ArgumentError, match="max_length is 1"):
        MLMEmptyDataset(TOKENIZER, 2, max_length=1)


def test_empty_texts_are_as_long_as_those_of_a_reference():
    drawn, again = (MLMEmptyDatasetFromLengthRef(TOKENIZER, 200, [3, 3, 3, 5]) for _ in range(2))
    lengths = [len(example["input_ids"]) for example in drawn]
    assert lengths == [len(example["input_ids"]) for example in again]
    assert set(lengths) == {3, 5}
    assert 0.65 < lengths.count(3) / 200 < 0.85
    batch = MLMInfillPredCollator(TOKENIZER, 6)(list(drawn))
    assert batch["attention_mask"].sum(1).tolist() == lengths


def test_a_batch_can_be_shown(pairs, capsys):
    print_batch_mlm(
        seeded(MLMSeq2SeqCollator(TOKENIZER, 5, **SETTINGS))(pairs), "val", TOKENIZER, "lm"
    )
    shown = capsys.readouterr().out
    assert "val/lm: 3 rows" in shown
    assert "[MASK]" in shown


def test_bad_input_is_named(pairs):
    with pytest.raises(ArgumentError, match="a suffix has 4 tokens, EOS included, and does not"):
        MLMSeq2SeqPredCollator(TOKENIZER, 3, **SETTINGS)(pairs)
    with pytest.raises(ArgumentError, match="a prompt has 5 tokens, BOS included, and does not"):
        MLMSeq2SeqTrainCollator(TOKENIZER, 9, input_block_size=4)(pairs)
    with pytest.raises(ArgumentError, match="a text has 4 tokens and does not fit"):
        MLMInfillPredCollator(TOKENIZER, 3)(PUZZLES)
    wrong = [{"input_ids": [7, MASK], "target_ids": [8, 9]}]
    with pytest.raises(ArgumentError, match="differ in length, or where the text has no mask"):
        DefaultInfillMLMCollator(TOKENIZER, 5)(wrong)

    class Maskless:
        pad_token_id, eos_token_id, bos_token_id = 0, 1, 2

    with pytest.raises(RequirementError, match="no special token for mask"):
        DefaultMLMCollator(Maskless(), 5)
