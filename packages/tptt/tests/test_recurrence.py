"""The laws of the operator: the fast form is the recurrence, however it is cut or padded."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.tptt import RecurrentMode, delta_rule_recurrent, linear_attention
from pellucid.tptt import _delta_rule as delta_rule

MODES = st.builds(
    RecurrentMode,
    order=st.integers(1, 4),
    linear=st.booleans(),
    trick=st.sampled_from(["derivative", "rotative", "combined", "cte"]),
)
LINEAR_MODES = MODES.filter(lambda mode: mode.linear)
SEEDS = st.integers(0, 2**31)
HEADS = st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)])


@st.composite
def cases(draw_value, modes=MODES):
    """A mode, inputs, a state, lengths, offsets and a chunk size."""
    heads, kv_heads = draw_value(HEADS)
    shape = {
        "batch": draw_value(st.integers(1, 2)),
        "heads": heads,
        "kv_heads": kv_heads,
        "pos": draw_value(st.sampled_from([1, 2, 3, 7, 16, 23])),
        "width": draw_value(st.sampled_from([1, 4, 5])),
        "seed": draw_value(SEEDS),
        "head_gate": draw_value(st.booleans()),
    }
    return draw_value(modes), shape, draw_value(st.sampled_from([1, 3, 8, 64]))


def made(draw, shape, *, with_state=True):
    inputs = draw(**shape)
    generator = torch.Generator().manual_seed(shape["seed"])
    batch, kv_heads, width = shape["batch"], shape["kv_heads"], shape["width"]
    state = torch.randn(batch, kv_heads, width, width, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, shape["pos"] + 1, (batch,), generator=generator)
    offset = torch.randint(0, 8, (batch,), generator=generator)
    return inputs, state if with_state else None, lengths, offset


def counted(out, lengths):
    return out.masked_fill((torch.arange(out.shape[2]) >= lengths[:, None])[:, None, :, None], 0)


@settings(max_examples=60)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_fast_form_is_the_recurrence(draw, case, dtype):
    mode, shape, chunk_size = case
    inputs, state, lengths, offset = made(draw, shape)
    offset %= chunk_size
    options = {"mode": mode, "chunk_size": chunk_size, "lengths": lengths, "offset": offset}
    # the reference is given what the fast form is given, rounded
    cast = [x.to(dtype) for x in (*inputs, state)]
    out, last = linear_attention(*cast[:4], state=cast[4], **options)
    expected, expected_last = delta_rule_recurrent(*cast[:4], state=cast[4], **options)
    assert out.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    scale = max(1.0, expected_last.abs().max().item())
    limits = {"atol": tolerance * scale, "rtol": tolerance, "check_dtype": False}
    torch.testing.assert_close(counted(out, lengths), counted(expected, lengths), **limits)
    torch.testing.assert_close(last, expected_last, **limits)


@settings(max_examples=25)
@given(case=cases(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_its_gradients_are_those_of_the_recurrence(draw, case, dtype):
    mode, shape, chunk_size = case
    inputs, state, lengths, offset = made(draw, shape)
    offset %= chunk_size
    options = {"mode": mode, "chunk_size": chunk_size, "lengths": lengths, "offset": offset}
    gradients = []
    for function in (linear_attention, delta_rule_recurrent):
        cast = [x.to(dtype).requires_grad_() for x in (*inputs, state)]
        out, last = function(*cast[:4], state=cast[4], **options)
        weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
        total = (counted(out, lengths) * weights).sum() + last.square().sum()
        gradients.append(torch.autograd.grad(total, cast, materialize_grads=True))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for got, expected in zip(*gradients, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got, expected, atol=tolerance * scale, rtol=10 * tolerance)


@given(case=cases(LINEAR_MODES), other=st.integers(1, 100))
def test_the_chunk_size_changes_nothing(draw, case, other):
    mode, shape, chunk_size = case
    inputs, state, *_ = made(draw, shape)
    one = linear_attention(*inputs, mode=mode, state=state, chunk_size=chunk_size)
    two = linear_attention(*inputs, mode=mode, state=state, chunk_size=other)
    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


@given(case=cases(), at=st.integers(0, 23))
def test_where_a_sequence_is_split_changes_nothing(draw, case, at):
    mode, shape, chunk_size = case
    at = min(at, shape["pos"])
    inputs, state, _, offset = made(draw, shape)
    offset %= chunk_size
    whole = linear_attention(*inputs, mode=mode, state=state, chunk_size=chunk_size, offset=offset)
    first = [x[:, :, :at] for x in inputs]
    out, middle = linear_attention(
        *first, mode=mode, state=state, chunk_size=chunk_size, offset=offset
    )
    # rows of zeros stand for what was before the first token
    lag = mode.order - 1
    previous = tuple(
        torch.cat((x.new_zeros(*x.shape[:2], lag, x.shape[3]), x[:, :, :at]), dim=2)[
            :, :, at : at + lag
        ]
        for x in inputs[1:3]
    )
    rest, last = linear_attention(
        *(x[:, :, at:] for x in inputs),
        mode=mode,
        state=middle,
        chunk_size=chunk_size,
        previous=previous,
        offset=(offset + at) % chunk_size,
    )
    torch.testing.assert_close(torch.cat((out, rest), dim=2), whole[0], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last, whole[1], atol=1e-10, rtol=1e-10)


@given(case=cases(), extra=st.integers(1, 40), poison=st.sampled_from([0.0, 1e30, torch.nan]))
def test_padding_changes_nothing(draw, case, extra, poison):
    mode, shape, chunk_size = case
    inputs, state, _, offset = made(draw, shape)
    offset %= chunk_size
    options = {"mode": mode, "state": state, "chunk_size": chunk_size, "offset": offset}
    plain, last = linear_attention(*inputs, **options)
    padded = [torch.nn.functional.pad(x, (0, 0, 0, extra), value=poison) for x in inputs]
    lengths = torch.full((shape["batch"],), shape["pos"])
    out, padded_last = linear_attention(*padded, lengths=lengths, **options)
    torch.testing.assert_close(out[:, :, : shape["pos"]], plain, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(padded_last, last, atol=1e-10, rtol=1e-10)


@given(case=cases(), at=st.integers(0, 22))
def test_no_token_looks_ahead(draw, case, at):
    mode, shape, chunk_size = case
    at = min(at, shape["pos"] - 1)
    inputs, state, *_ = made(draw, shape)
    before, _ = linear_attention(*inputs, mode=mode, state=state, chunk_size=chunk_size)
    changed = [x.clone() for x in inputs]
    for x in changed:
        x[:, :, at:] = x[:, :, at:].flip(-1) * 0.5
    after, _ = linear_attention(*changed, mode=mode, state=state, chunk_size=chunk_size)
    torch.testing.assert_close(after[:, :, :at], before[:, :, :at], atol=1e-12, rtol=0)


@given(case=cases(LINEAR_MODES))
def test_a_product_is_the_rule_applied_to_interleaved_tokens(draw, case):
    mode, shape, _ = case
    q, k, v, gate = draw(**shape)
    from pellucid.tptt import delta_rule_chunk

    n = mode.order
    many = [x.repeat_interleave(n, dim=2) for x in (q, k, v, gate)]
    scale = torch.linspace(0.2, 1, n).double().repeat(shape["pos"])[:, None]
    keys = many[1] * scale
    state = k.new_zeros(*k.shape[:2], k.shape[3], k.shape[3])
    out, last = delta_rule_chunk(q, keys, many[2], many[3], state=state, order=n)
    each, each_last = delta_rule_chunk(many[0], keys, many[2], many[3], state=state)
    torch.testing.assert_close(out, each[:, :, n - 1 :: n], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last, each_last, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("span", [64, 1 << 20])
def test_long_inputs_are_worked_on_in_pieces(draw, monkeypatch, span):
    monkeypatch.setattr(delta_rule, "_CPU_SPAN", span)
    inputs = draw(pos=150, width=4)
    mode = RecurrentMode(order=2)
    with torch.no_grad():
        out, last = linear_attention(*inputs, mode=mode)
        expected, expected_last = delta_rule_recurrent(*inputs, mode=mode)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(last, expected_last, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_nothing_overflows_in_long_and_large_inputs(draw, order):
    q, k, v, gate = (x.float() for x in draw(batch=1, heads=1, kv_heads=1, pos=32_768, width=16))
    with torch.no_grad():
        out, last = linear_attention(q, k, 1e4 * v, gate, mode=RecurrentMode(order=order))
        again, again_last = linear_attention(q, k, v, gate, mode=RecurrentMode(order=order))
    assert out.isfinite().all()
    assert last.isfinite().all()
    # the rule is linear in the values
    torch.testing.assert_close(out / 1e4, again, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last / 1e4, again_last, atol=1e-5, rtol=1e-4)


def test_equal_neighbours_have_bounded_gradients(draw):
    q, k, v, gate = draw(pos=6)
    k = k[:, :, :1].expand_as(k).clone().requires_grad_()
    out, _ = linear_attention(q, k, v, gate, mode=RecurrentMode(order=2))
    (gradient,) = torch.autograd.grad(out.sum(), k)
    assert gradient.abs().max() < 1e3


def test_a_key_is_recalled_after_many_others():
    """What one write says is what one read finds, which an operator without erasing cannot."""
    width = 16
    keys = torch.eye(width, dtype=torch.float64)[torch.arange(48) % width]
    values = torch.randn(48, width, generator=torch.Generator().manual_seed(0)).double()
    gate = torch.full((1, 1, 48, 1), 1.0, dtype=torch.float64)
    q = keys.roll(-1, 0)[None, None]
    out, _ = linear_attention(q, keys[None, None], values[None, None], gate, mode=RecurrentMode())
    # token t asks for the key of t + 1, last written 15 tokens before
    torch.testing.assert_close(out[0, 0, 15:], values[: 48 - 15], atol=1e-12, rtol=0)


def test_heads_that_cannot_be_grouped_are_refused(draw):
    with pytest.raises(ArgumentError, match="3 query heads cannot share 2 heads"):
        linear_attention(*draw(heads=3, kv_heads=2), mode=RecurrentMode())


def test_a_chunk_of_nothing_is_refused(draw):
    with pytest.raises(ArgumentError, match="chunk_size must be 1 or more, got 0"):
        linear_attention(*draw(), mode=RecurrentMode(), chunk_size=0)
