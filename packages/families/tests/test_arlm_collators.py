import pytest
import torch
from family_tools import BOS, EOS, PAD, TOKENIZER
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.arlm import (
    ARLMEmptyDataset,
    ARLMSeq2SeqCollator,
    ARLMSeq2SeqPredCollator,
    DefaultARLMCollator,
    print_batch_arlm,
)

IDS = st.lists(st.integers(7, 18), max_size=6)


def naive_text(ids, width):
    row = ([BOS, *ids, EOS] + [PAD] * width)[:width]
    n_tokens = min(len(ids) + 2, width)
    targets = [row[at + 1] if at + 1 < n_tokens else -100 for at in range(width)]
    return row, targets, [at < n_tokens for at in range(width)]


@given(rows=st.lists(IDS, min_size=1, max_size=4))
def test_a_text_is_laid_out_as_token_by_token(rows):
    batch = DefaultARLMCollator(TOKENIZER, 6, add_eos=True)([{"input_ids": row} for row in rows])
    for row, ids in enumerate(rows):
        expected = naive_text(ids, 6)
        fields = ("input_ids", "target_ids", "attention_mask")
        assert tuple(batch[name][row].tolist() for name in fields) == expected


@given(
    pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4),
    bos=st.sampled_from([None, "input", "output"]),
)
def test_prompts_end_where_suffixes_begin(pairs, bos):
    collator = ARLMSeq2SeqCollator(TOKENIZER, 8, input_block_size=7, add_bos=bos, add_eos=True)
    batch = collator([{"prompt_ids": p, "input_ids": s} for p, s in pairs])
    for row, (prompt, suffix) in enumerate(pairs):
        left = [*([BOS] if bos == "input" else []), *prompt, *([BOS] if bos == "output" else [])]
        right = [*suffix, EOS]
        n_left, n_right = 7 - len(left), 8 - len(right)
        assert batch["input_ids"][row].tolist() == [PAD] * n_left + left + right + [PAD] * n_right
        types = [2] * n_left + [0] * len(left) + [1] * len(right) + [2] * n_right
        assert batch["token_type_ids"][row].tolist() == types
        assert batch["attention_mask"][row].tolist() == [kind != 2 for kind in types]
        tokens = [*left, *right]
        targets = [-100] * n_left + tokens[1:] + [-100] * (1 + n_right)
        assert batch["target_ids"][row].tolist() == targets


def test_prompts_to_complete_are_those_that_were_learnt(pairs):
    settings = {"input_block_size": 7, "add_bos": "output", "add_eos": True}
    learnt = ARLMSeq2SeqCollator(TOKENIZER, 5, **settings)(pairs)
    asked = ARLMSeq2SeqPredCollator(TOKENIZER, 5, **settings)(pairs)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(asked[name], learnt[name][:, :7])
    assert torch.equal(asked["target_ids"], learnt["input_ids"][:, 7:])


def test_truncation_says_how_wide_a_batch_is(texts):
    widths = {
        truncate: DefaultARLMCollator(TOKENIZER, 4, truncate=truncate)(texts)["input_ids"].shape[1]
        for truncate in ("block", "max", None)
    }
    assert widths == {"block": 4, "max": 4, None: 6}
    wide = {
        truncate: DefaultARLMCollator(TOKENIZER, 9, truncate=truncate)(texts)["input_ids"].shape[1]
        for truncate in ("block", "max", None)
    }
    assert wide == {"block": 9, "max": 6, None: 6}


def test_empty_prompts_become_bos():
    dataset = ARLMEmptyDataset(TOKENIZER, 3)
    collator = ARLMSeq2SeqPredCollator(
        TOKENIZER, 4, input_block_size=1, add_bos="input", truncate="max"
    )
    assert collator(list(dataset))["input_ids"].tolist() == [[BOS]] * len(dataset)


def test_a_batch_can_be_shown(pairs, capsys):
    batch = ARLMSeq2SeqCollator(TOKENIZER, 5, input_block_size=5)(pairs)
    print_batch_arlm(batch, "train", TOKENIZER, "lm")
    shown = capsys.readouterr().out
    assert "train/lm: 3 rows" in shown
    assert "target_ids: 2 3 4 5" in shown


def test_bad_input_is_named(pairs):
    with pytest.raises(ArgumentError, match="a prompt has 4 tokens, BOS included, and does not"):
        ARLMSeq2SeqCollator(TOKENIZER, 5, input_block_size=3)(pairs)
    with pytest.raises(ArgumentError, match="add_bos is 'both'"):
        ARLMSeq2SeqCollator(TOKENIZER, 5, input_block_size=3, add_bos="both")
    with pytest.raises(ArgumentError, match="truncate is 'row'"):
        DefaultARLMCollator(TOKENIZER, 5, truncate="row")
    with pytest.raises(ArgumentError, match="block_size is 0"):
        DefaultARLMCollator(TOKENIZER, 0)
    with pytest.raises(ArgumentError, match="no examples to collate"):
        DefaultARLMCollator(TOKENIZER, 5)([])
    with pytest.raises(ArgumentError, match=r"holds \['text'\] and no 'input_ids'"):
        DefaultARLMCollator(TOKENIZER, 5)([{"text": "1 2"}])


def test_only_the_special_tokens_that_are_put_in_are_needed(pairs):
    class Endless:
        pad_token_id, bos_token_id, eos_token_id = PAD, BOS, None

    batch = ARLMSeq2SeqCollator(Endless(), 5, input_block_size=5, add_bos="output")(pairs)
    assert torch.equal(batch["input_ids"][:, 4], torch.full((3,), BOS))
    with pytest.raises(RequirementError, match="no special token for eos"):
        DefaultARLMCollator(Endless(), 5, add_eos=True)

    class Padded:
        pad_token_id, bos_token_id, eos_token_id = PAD, None, None

    assert "input_ids" in ARLMSeq2SeqCollator(Padded(), 5, input_block_size=5)(pairs)
    with pytest.raises(RequirementError, match="no special token for bos"):
        DefaultARLMCollator(Padded(), 5)
    with pytest.raises(RequirementError, match="no special token for bos, eos"):
        ARLMSeq2SeqPredCollator(Padded(), 5, input_block_size=5, add_bos="input", add_eos=True)
