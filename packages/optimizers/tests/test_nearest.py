import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.optimizers import _nearest
from pellucid.optimizers._nearest import find_nearest


@given(st.integers(0, 999), st.integers(1, 40), st.integers(1, 50))
def test_nearest_is_that_of_a_plain_comparison(seed, n_allowed, chunk):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(40, 5, generator=generator)
    vectors = torch.randn(6, 5, generator=generator)
    allowed = torch.randperm(40, generator=generator)[:n_allowed].sort().values
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], table[allowed], dim=-1)
    original = _nearest._CHUNK
    try:
        _nearest._CHUNK = chunk
        found = find_nearest(vectors, table, allowed)
    finally:
        _nearest._CHUNK = original
    assert torch.equal(found, allowed[cosines.argmax(dim=-1)])


def test_tokens_are_nearest_to_themselves_whatever_their_length():
    table = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([3, 29, 0])
    scaled = table[ids] * torch.tensor([[0.01], [1.0], [500.0]])
    assert torch.equal(find_nearest(scaled, table.bfloat16(), torch.arange(30)), ids)


def test_zero_rows_and_zero_vectors_give_an_allowed_token():
    table = torch.zeros(4, 3)
    assert set(find_nearest(torch.zeros(2, 3), table, torch.tensor([1, 3])).tolist()) <= {1, 3}
