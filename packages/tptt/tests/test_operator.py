import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.tptt import (
    RECURRENT_MODES,
    LCache,
    LinearAttentionOp,
    ModeError,
    RecurrentMode,
    delta_rule_recurrent,
    published_operator,
)


@pytest.mark.parametrize("name", RECURRENT_MODES)
def test_each_mode_is_its_recurrence(draw, name):
    q, k, v, gate = draw(pos=21)
    other = gate.flip(2)
    op = LinearAttentionOp(0, name, max_chunk_size=8, linear_precision=torch.float64)
    taken = {"k": gate, "v": other, "kv": gate * other}[op.mode.gate_type]
    expected, _ = delta_rule_recurrent(q, k, v, taken, mode=op.mode, chunk_size=8)
    out = op(q, k, v, (gate, other))
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)


@given(name=st.sampled_from(sorted(RECURRENT_MODES)), at=st.integers(1, 18))
def test_going_on_from_what_is_remembered_is_one_pass(draw, name, at):
    inputs = draw(pos=19, heads=4)
    op = LinearAttentionOp(3, name, max_chunk_size=4, linear_precision=torch.float64)
    whole = op(*inputs)
    first = op(*(x[:, :, :at] for x in inputs), use_cache=True)
    steps = [op(*(x[:, :, t : t + 1] for x in inputs), use_cache=True) for t in range(at, 19)]
    torch.testing.assert_close(torch.cat((first, *steps), dim=2), whole, atol=1e-10, rtol=1e-10)


@given(name=st.sampled_from(sorted(RECURRENT_MODES)), seed=st.integers(0, 1000))
def test_rows_may_remember_different_numbers_of_tokens(draw, name, seed):
    inputs = draw(pos=11)
    lengths = torch.randint(1, 10, (2,), generator=torch.Generator().manual_seed(seed))
    op = LinearAttentionOp(0, name, max_chunk_size=4, linear_precision=torch.float64)
    op(*(x[:, :, :10] for x in inputs), use_cache=True, lengths=lengths)
    together = op(*(x[:, :, 10:] for x in inputs), use_cache=True)
    for row in range(2):
        op.linear_cache.reset()
        own = [x[row : row + 1] for x in inputs]
        op(*(x[:, :, : lengths[row]] for x in own), use_cache=True)
        alone = op(*(x[:, :, 10:] for x in own), use_cache=True)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-10, rtol=1e-10)


def test_nothing_is_remembered_unless_asked(draw):
    op = LinearAttentionOp(0)
    op(*(x.float() for x in draw()))
    assert op.linear_cache[0] is None
    assert op.get_cache(use_cache=True) == (None, None)


def test_states_and_buffers_can_be_read_and_kept(draw):
    q, k, v, gate = draw()
    op = LinearAttentionOp(1, "delta_product", linear_precision=torch.float64)
    op(q, k, v, gate, use_cache=True)
    state, buffers = op.get_cache(use_cache=True)
    assert state.shape == (2, 2, 4, 4)
    assert all(
        torch.equal(kept, x[:, :, -1:]) for kept, x in zip(buffers, (q, k, v, gate), strict=True)
    )
    op.save_cache(True, q, k, v, gate, 2 * state)
    assert torch.equal(op.get_cache(use_cache=True)[0], 2 * state)
    assert op.get_cache(use_cache=False) == (None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_precision_asked_for_is_that_of_the_result(draw, dtype):
    inputs = draw(pos=20)
    op = LinearAttentionOp(0, linear_precision=dtype)
    out = op(*inputs, use_cache=True)
    assert out.dtype == dtype
    assert op.get_cache(use_cache=True)[0].dtype == torch.promote_types(dtype, torch.float32)
    exact, _ = delta_rule_recurrent(*inputs, mode=RecurrentMode())
    error = (out.double() - exact).norm() / exact.norm()
    assert error < 4 * torch.finfo(dtype).eps


def test_autocast_does_not_reach_the_operator(draw):
    inputs = [x.float() for x in draw(pos=20)]
    op = LinearAttentionOp(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(op(*inputs), op(*inputs))
        inside = op(*inputs)
    assert torch.equal(inside, op(*inputs))


@pytest.mark.parametrize("use_checkpoint", [True, False])
def test_the_static_form_takes_and_returns_states(draw, use_checkpoint):
    inputs = [x.requires_grad_() for x in draw()]
    state = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    run = LinearAttentionOp.chunk_delta_product_forward
    out, last = run(
        *inputs, 4, 2, "rotative", True, state, use_checkpoint, linear_precision=torch.float64
    )
    stacked = torch.stack((0 * state, state), dim=2)
    again, _ = run(*inputs, 64, 2, "rotative", True, stacked, linear_precision=torch.float64)
    mode = RecurrentMode(order=2, trick="rotative")
    expected, expected_last = delta_rule_recurrent(*inputs, mode=mode, state=state)
    for got in (out, again):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last, expected_last, atol=1e-10, rtol=1e-10)
    got, wanted = (torch.autograd.grad(x.sum(), inputs[1])[0] for x in (out, expected))
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=1e-10)


def test_the_published_operator_is_there_for_those_who_ask(draw):
    q, k, v, gate = draw(heads=4, kv_heads=2, pos=12)
    op = LinearAttentionOp(0, linear_precision=torch.float64, compat="upstream")
    wide = [x.repeat_interleave(2, dim=1) for x in (k, v, gate)]
    expected, _ = published_operator(q, *wide, mode=RecurrentMode())
    torch.testing.assert_close(op(q, k, v, gate), expected)


def test_a_state_of_another_batch_is_refused(draw):
    cache = LCache()
    op = LinearAttentionOp(0, linear_cache=cache)
    op(*(x.float() for x in draw(batch=2)), use_cache=True)
    match = r"shape \(2, 2, 4, 4\), this input of 3 rows needs \(3, 2, 4, 4\).*reset\(\)"
    with pytest.raises(ArgumentError, match=match):
        op(*(x.float() for x in draw(batch=3)), use_cache=True)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"operator_mode": "delta"}, "Unknown mode 'delta'"),
        ({"max_chunk_size": 0}, "max_chunk_size must be 1 or more, got 0"),
        ({"linear_precision": torch.int64}, "must be a float type, got torch.int64"),
        ({"compat": "0.12"}, "compat must be None or 'upstream', got '0.12'"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises((ArgumentError, ModeError), match=match):
        LinearAttentionOp(0, **options)
