import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers._visited import hash_rows, is_new

rows = st.lists(st.lists(st.integers(0, 2**40), min_size=3, max_size=3), min_size=1, max_size=8)


@given(rows, rows)
def test_new_is_what_is_not_among_the_others(seen, asked):
    visited = hash_rows(torch.tensor(seen))
    expected = [row not in seen for row in asked]
    assert is_new(torch.tensor(asked), visited).tolist() == expected


def test_numbers_are_fixed_and_heed_the_order():
    numbers = hash_rows(torch.tensor([[1, 2, 3], [3, 2, 1]]))
    assert numbers.tolist() == hash_rows(torch.tensor([[1, 2, 3], [3, 2, 1]])).tolist()
    assert numbers[0] != numbers[1]
    # What a checkpoint of another process holds.
    assert numbers.tolist() == [-5405627362230748553, 8541177218594676465]


def test_strided_rows_count_as_their_values():
    table = torch.arange(12).reshape(3, 4)
    assert torch.equal(hash_rows(table.T), hash_rows(table.T.contiguous()))
