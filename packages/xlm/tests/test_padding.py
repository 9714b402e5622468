import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError, RequirementError
from pellucid.xlm.datamodule import (
    DefaultCollator,
    DefaultCollatorWithDynamicPadding,
    DefaultCollatorWithPadding,
    SimpleSpaceTokenizer,
    is_token_mask,
    pack_sequences,
    pad_rows,
    pad_truncate_list,
)

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
ROWS = st.lists(st.lists(st.integers(min_value=7, max_value=26), max_size=9), max_size=6)
SIDES = st.sampled_from(["left", "right"])


@given(rows=ROWS, width=st.integers(min_value=0, max_value=10), pad=SIDES, cut=SIDES)
def test_a_rectangle_equals_its_rows_one_by_one(rows, width, pad, cut) -> None:
    padded, lengths = pad_rows(rows, width, pad=0, pad_side=pad, truncate_side=cut)
    naive = [
        pad_truncate_list(row, width, 0, pad == "left", truncate_left=cut == "left") for row in rows
    ]
    assert padded.tolist() == naive
    assert padded.shape == (len(rows), width)
    assert padded.dtype == torch.int64
    assert lengths.tolist() == [min(len(row), width) for row in rows]
    # No ordinary token is 0 here, so that tokens and padding are told apart by value too.
    assert torch.equal(is_token_mask(lengths, width, pad_side=pad), padded != 0)


@given(rows=ROWS)
def test_the_longest_row_sets_the_width(rows) -> None:
    padded, _ = pad_rows(rows, pad=0)
    assert padded.shape[1] == max(map(len, rows), default=0)


@given(
    ids=st.lists(st.integers(), max_size=8),
    length=st.integers(min_value=0, max_value=10),
    pad_left=st.booleans(),
    truncate_left=st.booleans(),
)
def test_a_list_is_brought_to_a_length(ids, length, pad_left, truncate_left) -> None:
    before = list(ids)
    made = pad_truncate_list(ids, length, -1, pad_left, truncate_left=truncate_left)
    assert ids == before
    assert len(made) == length
    n_kept = min(len(ids), length)
    kept = made[length - n_kept :] if pad_left else made[:n_kept]
    assert kept == (ids[len(ids) - n_kept :] if truncate_left else ids[:n_kept])
    assert made.count(-1) - kept.count(-1) == length - n_kept


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ArgumentError, match="max_len is -1"):
        pad_truncate_list([1], -1, 0)
    with pytest.raises(ArgumentError, match="width is -1"):
        pad_rows([[1]], -1, pad=0)


def examples(rows):
    return [{"input_ids": row} for row in rows]


@given(rows=st.lists(st.lists(st.integers(7, 26), max_size=9), min_size=1, max_size=6))
def test_collators_agree_with_each_other(rows) -> None:
    fixed = DefaultCollatorWithPadding(TOKENIZER, 6)(examples(rows))
    dynamic = DefaultCollatorWithDynamicPadding(TOKENIZER, 6)(examples(rows))
    width = min(max(map(len, rows)), 6)
    for name, held in dynamic.items():
        assert held.shape == (len(rows), width)
        assert held.dtype == torch.int64
        assert torch.equal(held, fixed[name][:, :width])
    is_token = fixed["attention_mask"].bool()
    assert is_token.sum(1).tolist() == [min(len(row), 6) for row in rows]
    assert torch.equal(fixed["token_type_ids"], torch.where(is_token, 0, 2))
    assert (fixed["input_ids"][~is_token] == TOKENIZER.pad_token_id).all()
    cut = [row[:6] for row in rows]
    assert fixed["input_ids"][is_token].tolist() == list(itertools.chain(*cut))


def test_rows_of_the_block_are_stacked() -> None:
    batch = DefaultCollator(TOKENIZER, 3)(examples([[7, 8, 9], [9, 8, 7]]))
    assert batch["input_ids"].tolist() == [[7, 8, 9], [9, 8, 7]]
    assert batch["attention_mask"].all()


@pytest.mark.parametrize(
    ("collator", "rows", "message"),
    [
        (DefaultCollator(TOKENIZER, 3), [[7, 8, 9], [7]], "row 1 has 1 tokens and should have 3"),
        (DefaultCollator(TOKENIZER), [[7], [7, 8]], "row 1 has 2 tokens and should have 1"),
        (DefaultCollatorWithPadding(TOKENIZER), [[7]], "block_size is None"),
        (DefaultCollatorWithPadding(TOKENIZER, 3), [], "there are no examples"),
    ],
)
def test_what_cannot_be_collated_is_said(collator, rows, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        collator(examples(rows))


def test_an_example_without_ids_and_a_tokenizer_without_padding_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"example 0 holds \['text'\] and no 'input_ids'"):
        DefaultCollatorWithPadding(TOKENIZER, 3)([{"text": "a"}])

    class Bare:
        pad_token_id = None

    with pytest.raises(RequirementError, match="Bare has no padding token"):
        DefaultCollatorWithPadding(Bare(), 3)(examples([[7]]))


def naive_pack(rows, block_size, *, use_bos, drop_last):
    stream, text_of = [], []
    for number, row in enumerate(rows):
        closed = [*([4] if use_bos else []), *row, 3]
        stream += closed
        text_of += [number] * len(closed)
    blocks, segments, positions = [], [], []
    for start in range(0, len(stream), block_size):
        block = stream[start : start + block_size]
        if drop_last and len(block) < block_size:
            break
        texts = text_of[start : start + block_size]
        distinct = sorted(set(texts))
        blocks.append(block)
        segments.append([distinct.index(text) for text in texts])
        positions.append([texts[:at].count(text) for at, text in enumerate(texts)])
    return {"input_ids": blocks, "segment_ids": segments, "positions": positions}


@given(
    rows=ROWS,
    block_size=st.integers(min_value=1, max_value=7),
    use_bos=st.booleans(),
    drop_last=st.booleans(),
)
def test_packing_equals_the_naive_one(rows, block_size, use_bos, drop_last) -> None:
    packed = pack_sequences(
        {"input_ids": rows},
        TOKENIZER,
        block_size,
        use_bos=use_bos,
        drop_last=drop_last,
        with_segments=True,
    )
    assert packed == naive_pack(rows, block_size, use_bos=use_bos, drop_last=drop_last)


@given(rows=ROWS, block_size=st.integers(min_value=1, max_value=7))
def test_packing_loses_no_token(rows, block_size) -> None:
    packed = pack_sequences({"token_ids": rows}, TOKENIZER, block_size, drop_last=False)
    stream = list(itertools.chain(*packed["input_ids"]))
    closed = list(itertools.chain(*([*row, TOKENIZER.eos_token_id] for row in rows)))
    assert stream == closed


def test_packing_needs_ids_and_a_block() -> None:
    with pytest.raises(ArgumentError, match="block_size is 0"):
        pack_sequences({"input_ids": [[7]]}, TOKENIZER, 0)
    with pytest.raises(ArgumentError, match=r"columns \['text'\] and no input_ids"):
        pack_sequences({"text": ["a"]}, TOKENIZER, 4)
