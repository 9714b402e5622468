"""Rows put together from pieces equal lists put together, wherever they lie."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.xlm.contracts import Collator
from pellucid.xlm.datamodule import (
    BatchLoader,
    BatchPlan,
    BlockRows,
    Ragged,
    Table,
    pad_rows,
    pad_truncate_list,
    read_rows,
    with_ends,
)

TOKENS = st.integers(min_value=7, max_value=26)
PAIRS = st.lists(
    st.tuples(st.lists(TOKENS, max_size=6), st.lists(TOKENS, max_size=4)), min_size=1, max_size=6
)
EVEN = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 5)).flatmap(
    lambda sizes: st.lists(
        st.tuples(
            st.lists(TOKENS, min_size=sizes[0], max_size=sizes[0]),
            st.lists(TOKENS, min_size=sizes[1], max_size=sizes[1]),
        ),
        min_size=sizes[2],
        max_size=sizes[2],
    )
)
ENDS = st.sampled_from([None, 3, 4])
SIDES = st.sampled_from(["left", "right"])


def naive_join(pairs, before, after):
    first, last = ([] if token is None else [token] for token in (before, after))
    return [[*first, *one, *last, *other] for one, other in pairs]


@given(
    pairs=PAIRS | EVEN,
    before=ENDS,
    after=ENDS,
    width=st.integers(0, 14),
    pad=SIDES,
    cut=SIDES,
)
def test_pieces_equal_lists_put_together(pairs, before, after, width, pad, cut) -> None:
    ones, others = ([list(row) for row in rows] for rows in zip(*pairs, strict=True))
    rows = with_ends(ones, before=before, after=after).followed_by(Ragged.of(others))
    naive = naive_join(pairs, before, after)
    assert list(rows) == naive
    assert rows[-1:] == naive[-1:]
    assert rows.lengths.tolist() == [len(row) for row in naive]
    assert rows.longest == max(map(len, naive))
    padded, kept = pad_rows(rows, width, pad=0, pad_side=pad, truncate_side=cut)
    assert padded.tolist() == [
        pad_truncate_list(row, width, 0, pad == "left", truncate_left=cut == "left")
        for row in naive
    ]
    assert kept.tolist() == [min(len(row), width) for row in naive]
    _, is_token, _ = rows.place(width, pad=0, pad_side=pad, truncate_side=cut)
    assert np.array_equal(is_token, padded.numpy() != 0)


@given(pairs=PAIRS | EVEN, chosen=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_the_columns_of_a_selection_are_those_of_its_rows(pairs, chosen) -> None:
    ones, others = ([list(row) for row in rows] for rows in zip(*pairs, strict=True))
    table = Table.of({"prompt_ids": ones, "input_ids": others, "flags": [[True]] * len(pairs)})
    indices = [number % len(pairs) for number in chosen]
    selection = table.select(indices)
    rows = table.rows(indices)
    assert list(selection) == rows
    assert len(selection) == len(rows)
    assert list(read_rows(selection, "prompt_ids")) == [row["prompt_ids"] for row in rows]
    # The first field that there is, as for rows that are dictionaries.
    fields = ("target_ids", "input_ids")
    assert list(read_rows(selection, *fields)) == list(read_rows(rows, *fields))
    # No lists of integers: they are held another way, and read as they were given.
    assert read_rows(selection, "flags") == [[True]] * len(rows)
    with pytest.raises(ArgumentError, match="and no 'target_ids'"):
        read_rows(selection, "target_ids")


def test_a_row_of_a_selection_stays_changed() -> None:
    selection = Table.of({"input_ids": [[1], [2]]}).select([1, 0])
    selection[0]["input_ids"].append(9)
    assert list(selection) == [{"input_ids": [2, 9]}, {"input_ids": [1]}]


def test_rows_that_follow_others_are_as_many() -> None:
    with pytest.raises(ArgumentError, match="there are 1 rows and 2 to follow them"):
        Ragged.of([[1]]).followed_by(Ragged.of([[1], [2]]))


def test_no_rows_have_no_rectangle_to_speak_of() -> None:
    padded, kept = pad_rows([], 3, pad=0)
    assert padded.shape == (0, 3)
    assert kept.shape == (0,)


class Padding(Collator):
    """Reads a column."""

    def __call__(self, examples):
        return {"ids": pad_rows(read_rows(examples, "input_ids"), pad=0)[0]}


class PaddingRows(Padding):
    """Reads the same, row by row."""

    def __call__(self, examples):
        return super().__call__([dict(example) for example in examples])


def block(number: int) -> Table:
    return Table.of({"input_ids": [[number * 8 + row] * (1 + row % 3) for row in range(8)]})


@pytest.mark.parametrize(
    ("source", "plan"),
    [
        (block(0), BatchPlan(n_rows=8, batch_size=3, shuffle=True, seed=1)),
        # Batches of six in blocks of eight: some lie in one block, some in two.
        (BlockRows(block, block_rows=8), BatchPlan(n_rows=None, batch_size=6)),
    ],
    ids=["table", "blocks"],
)
def test_loaders_give_columns_and_rows_alike(source, plan) -> None:
    by_column = iter(BatchLoader(source, plan, Padding()))
    by_row = iter(BatchLoader(source, plan, PaddingRows()))
    for _ in range(3):
        assert torch.equal(next(by_column)["ids"], next(by_row)["ids"])


def test_other_callables_are_handed_lists() -> None:
    kinds = []
    loader = BatchLoader(
        block(0), BatchPlan(n_rows=8, batch_size=4), lambda rows: kinds.append(type(rows)) or rows
    )
    assert next(iter(loader)) == block(0).rows(range(4))
    assert set(kinds) == {list}
