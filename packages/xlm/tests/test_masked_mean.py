import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pellucid.core import ArgumentError
from pellucid.xlm import masked_mean

SIZES = st.integers(min_value=1, max_value=5)


def naive_masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([row[keep].mean() for row, keep in zip(values, mask, strict=True)])


def draw(batch: int, pos: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, pos, generator=generator, dtype=torch.float64)
    mask = torch.rand(batch, pos, generator=generator) < 0.5
    mask[:, 0] = True
    return values, mask


@given(batch=SIZES, pos=SIZES, seed=st.integers(min_value=0, max_value=2**31))
def test_it_equals_the_mean_of_the_selected_values(batch: int, pos: int, seed: int) -> None:
    values, mask = draw(batch, pos, seed)
    torch.testing.assert_close(masked_mean(values, mask), naive_masked_mean(values, mask))


@given(batch=SIZES, pos=SIZES, seed=st.integers(min_value=0, max_value=2**31))
def test_masked_values_are_never_read(batch: int, pos: int, seed: int) -> None:
    values, mask = draw(batch, pos, seed)
    poisoned = values.where(mask, torch.nan)
    assert torch.equal(masked_mean(poisoned, mask), masked_mean(values, mask))


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"rows \[1\] of the mask are empty"):
        masked_mean(torch.ones(2, 3), torch.tensor([[True, False, True], [False, False, False]]))
