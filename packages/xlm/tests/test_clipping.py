import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.xlm._optimization import clip


def weights(scale, seed):
    draw = torch.Generator().manual_seed(seed)
    model = torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False)])
    for weight in model.parameters():
        weight.grad = scale * torch.randn(weight.shape, generator=draw)
    model[0].bias.grad = None
    return list(model.parameters())


@given(st.floats(0.0, 4.0), st.floats(0.01, 4.0), st.integers(0, 2**31))
def test_gradients_are_clipped_as_torch_clips_them(scale, at, seed):
    ours = weights(scale, seed)
    theirs = copy.deepcopy(ours)
    for mine, other in zip(ours, theirs, strict=True):
        other.grad = None if mine.grad is None else mine.grad.clone()
    assert torch.equal(clip(ours, at, None), torch.nn.utils.clip_grad_norm_(theirs, at))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, other.grad)


def test_a_norm_that_is_no_number_is_not_hidden():
    ours = weights(float("nan"), 0)
    assert clip(ours, 1.0, None).isnan()
    assert ours[0].grad.isnan().all()


def test_numbers_are_clipped_one_by_one():
    ours = weights(9.0, 0)
    assert clip(ours, 0.5, "value") is None
    assert ours[0].grad.abs().max() == pytest.approx(0.5)
