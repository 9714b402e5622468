import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_samples import seeded

from pellucid.losses import IGNORE_INDEX, masked_mean
from pellucid.losses._token_nll import token_nll, widen


def test_the_ignore_index_is_that_of_torch():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE_INDEX == -100


@given(st.integers(0, 2**16), st.lists(st.booleans(), min_size=1, max_size=6))
def test_masked_mean_is_the_mean_of_what_is_admitted(seed, admitted):
    values = seeded(3, len(admitted), seed=seed)
    kept = values[:, admitted]
    expected = kept.mean(dim=-1) if any(admitted) else torch.zeros(3, dtype=values.dtype)
    torch.testing.assert_close(masked_mean(values, torch.tensor(admitted)), expected)


def test_a_mask_for_each_row():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
def test_what_is_masked_out_has_no_influence_even_on_the_gradient(wild):
    values = torch.tensor([1.0, wild, 3.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_widening_never_narrows():
    for given_dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert widen(torch.zeros(1, dtype=given_dtype)).dtype == expected


def test_tokens_shared_by_all_samples_and_tokens_of_each():
    logits = seeded(2, 3, 5)
    shared = torch.tensor([[1, IGNORE_INDEX, 4]])
    nll = token_nll(logits, shared)
    assert torch.equal(nll, token_nll(logits, shared.expand(2, -1)))
    assert nll[:, 1].tolist() == [0.0, 0.0]
    torch.testing.assert_close(nll[:, 2], -logits[:, 2].log_softmax(dim=-1)[:, 4])
