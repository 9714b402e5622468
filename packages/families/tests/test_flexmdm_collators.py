import pytest
import torch
from family_tools import BOS, EOS, IDS, MASK, PAD, TOKENIZER
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.families.flexmdm import (
    FlexMDMInfillPredCollator,
    FlexMDMPredCollator,
    FlexMDMTrainCollator,
    print_batch_flexmdm,
)
from pellucid.xlm.datamodule import DefaultEmptyDataset

SETTINGS = {"input_block_size": 6, "add_bos": "output"}


@given(rows=st.lists(IDS, min_size=1, max_size=4), add_bos=st.sampled_from([None, "output"]))
def test_a_text_stands_between_bos_and_eos(rows, add_bos):
    collator = FlexMDMTrainCollator(TOKENIZER, 6, add_bos=add_bos)
    batch = collator([{"input_ids": row} for row in rows])
    first = [BOS] if add_bos else []
    for row, ids in enumerate(rows):
        text = [*first, *ids[: 5 - len(first)], EOS]
        pads = [PAD] * (6 - len(text))
        assert batch["input_ids"][row].tolist() == text + pads
        assert batch["attention_mask"][row].tolist() == [at < len(text) for at in range(6)]
        assert batch["fixed"][row].tolist() == [
            at < len(first) or at >= len(text) for at in range(6)
        ]
        own = batch["target_ids"][row]
        assert own[own != -100].tolist() == text[len(first) : -1]


@given(pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), to_block=st.booleans())
def test_suffixes_follow_prompts_without_a_gap(pairs, to_block):
    truncate = "block" if to_block else "max"
    collator = FlexMDMTrainCollator(TOKENIZER, 7, truncate=truncate, **SETTINGS)
    batch = collator([{"prompt_ids": p, "input_ids": s} for p, s in pairs])
    longest = max(len(prompt) + len(suffix) for prompt, suffix in pairs) + 2
    assert batch["input_ids"].shape[1] == (13 if to_block else longest)
    for row, (prompt, suffix) in enumerate(pairs):
        shown = batch["attention_mask"][row]
        assert batch["input_ids"][row][shown].tolist() == [*prompt, BOS, *suffix, EOS]
        fixed = [True] * (len(prompt) + 1) + [False] * (len(suffix) + 1)
        assert batch["fixed"][row][shown].tolist() == fixed


def test_what_is_asked_is_what_is_learnt(pairs):
    learnt = FlexMDMTrainCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    asked = FlexMDMPredCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    assert (asked["input_ids"][:, -1] == EOS).all()
    assert asked["attention_mask"][:, -1].all()
    assert not asked["fixed"][:, -1].any()
    assert asked["fixed"][:, :-1].all()
    for row in range(3):
        shown = asked["attention_mask"][row]
        prompt = asked["input_ids"][row][shown][:-1].tolist()
        target = [token for token in asked["target_ids"][row].tolist() if token != PAD]
        whole = learnt["input_ids"][row][learnt["attention_mask"][row]].tolist()
        assert whole == prompt + target


def test_from_nothing_there_are_bos_and_eos():
    collator = FlexMDMPredCollator(TOKENIZER, 9)
    batch = collator(list(DefaultEmptyDataset(TOKENIZER, 2)))
    assert batch["input_ids"].tolist() == [[BOS, EOS]] * 2
    assert batch["fixed"].tolist() == [[True, False]] * 2
    assert batch["target_ids"].shape == (2, 9)


def test_texts_to_fill_are_open_everywhere():
    rows = [{"input_ids": [7, MASK], "target_ids": [7, 8, 9]}, {"input_ids": [], "target_ids": [8]}]
    batch = FlexMDMInfillPredCollator(TOKENIZER, 6)(rows)
    assert batch["input_ids"].tolist() == [
        [BOS, 7, MASK, EOS, PAD, PAD],
        [BOS, EOS, PAD, PAD, PAD, PAD],
    ]
    assert batch["fixed"].tolist() == [[True, *[False] * 5]] * 2
    assert batch["target_ids"].tolist() == [
        [BOS, 7, 8, 9, EOS, PAD],
        [BOS, 8, EOS, PAD, PAD, PAD],
    ]
    assert "target_ids" not in FlexMDMInfillPredCollator(TOKENIZER, 6)([{"input_ids": [7]}])


def test_fields_are_passed_through(pairs):
    named = [{**pair, "answer": str(row)} for row, pair in enumerate(pairs)]
    for kind in (FlexMDMTrainCollator, FlexMDMPredCollator):
        collator = kind(TOKENIZER, 5, pass_through_fields=["answer"], **SETTINGS)
        assert collator(named)["answer"] == ["0", "1", "2"]


def test_a_batch_can_be_shown(pairs, capsys):
    batch = FlexMDMTrainCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    print_batch_flexmdm(batch, "val", TOKENIZER, "lm")
    shown = capsys.readouterr().out
    assert "val/lm: 3 rows" in shown
    assert "target_ids: 4 5" in shown


def test_bad_input_is_named(pairs):
    with pytest.raises(ArgumentError, match="a suffix has 4 tokens, EOS included, and does not"):
        FlexMDMTrainCollator(TOKENIZER, 3, **SETTINGS)(pairs)
    with pytest.raises(ArgumentError, match="a prompt has 5 tokens, BOS included, and does not"):
        FlexMDMPredCollator(TOKENIZER, 9, input_block_size=4)(pairs)
    with pytest.raises(ArgumentError, match="a text has 5 tokens, special ones included"):
        FlexMDMInfillPredCollator(TOKENIZER, 4)([{"input_ids": [7, 8, 9]}])
    with pytest.raises(ArgumentError, match="block_size is 2; leave room"):
        FlexMDMTrainCollator(TOKENIZER, 2)

    class Shared:
        pad_token_id = eos_token_id = 0
        bos_token_id, mask_token_id = 1, 2

    with pytest.raises(RequirementError, match="padding and EOS are one token, 0"):
        FlexMDMTrainCollator(Shared(), 5)


def test_examples_come_out_as_they_went_in(pairs):
    before = [{name: list(ids) for name, ids in pair.items()} for pair in pairs]
    FlexMDMTrainCollator(TOKENIZER, 5, **SETTINGS)(pairs)
    assert pairs == before
    assert torch.get_default_dtype() == torch.float32
