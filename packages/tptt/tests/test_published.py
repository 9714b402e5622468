import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.tptt import (
    RecurrentMode,
    delta_rule_recurrent,
    expand_virtual_tokens,
    get_valid_chunk_size,
    published_operator,
    unlinear_activation,
)


def written_out(q, k, v, gate, mode, chunk_size):
    """One head, one chunk, one token after the other, each with a state of its own."""
    n = mode.order
    size = get_valid_chunk_size(q.shape[2], chunk_size)
    q, k, v, b = (expand_virtual_tokens(x, n, mode.trick)[0, 0] for x in (q, k, v, gate))
    state = torch.full((k.shape[1],) * 2, 1e-6, dtype=q.dtype)
    outs = []
    for first in range(0, len(q), size * n):
        here = slice(first, first + size * n)
        lower = ((k * b)[here] @ k[here].mT).tril(-1)
        inverse = torch.linalg.inv(torch.eye(size * n, dtype=q.dtype) + lower)
        w, u = inverse @ (k * b)[here], inverse @ (v * b)[here]
        for token in range(size):
            own = state
            for slot in range(n):
                at = token * n + slot
                change = u[at] - w[at] @ own
                out = q[here][at] @ own + q[here][at] * change
                own = own + torch.outer(w[at], change)
            outs.append(out)
        state = own if mode.linear else unlinear_activation(own)
    return torch.stack(outs)[None, None], state[None, None]


@settings(max_examples=30)
@given(
    order=st.integers(1, 3),
    trick=st.sampled_from(["derivative", "rotative", "combined"]),
    linear=st.booleans(),
    pos=st.sampled_from([1, 7, 12]),
    chunk_size=st.sampled_from([1, 4, 64]),
)
def test_it_is_what_the_closed_form_says(draw, order, trick, linear, pos, chunk_size):
    mode = RecurrentMode(order=order, trick=trick, linear=linear)
    inputs = draw(batch=1, heads=1, kv_heads=1, pos=pos)
    got = published_operator(*inputs, mode=mode, chunk_size=chunk_size)
    expected = written_out(*inputs, mode, chunk_size)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("chunk_size", [4, 5])
def test_it_gives_the_numbers_of_tptt_0_12_1(chunk_size):
    """Recorded from its chunk_delta_product_forward, with alpha of ones, in float64."""
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(1, 2, 12, 4, generator=generator, dtype=torch.float64)

    q, k = (torch.nn.functional.normalize(torch.nn.functional.silu(noise()), dim=-1) for _ in "qk")
    v, gate = noise(), torch.sigmoid(2 * noise())
    out, state = published_operator(q, k, v, gate, mode=RecurrentMode(), chunk_size=chunk_size)
    close = {"atol": 5.1e-5, "rtol": 0, "check_dtype": False}
    recorded = torch.tensor([0.0209, -0.0324, 0.0061, 0.2872])
    torch.testing.assert_close(out.flatten()[:4], recorded, **close)
    torch.testing.assert_close(state.flatten()[:3], torch.tensor([0.3653, 0.4498, 0.5133]), **close)


def test_it_is_not_the_delta_rule(draw):
    inputs = draw(pos=32, width=8)
    mode = RecurrentMode()
    out, _ = published_operator(*inputs, mode=mode)
    exact, _ = delta_rule_recurrent(*inputs, mode=mode)
    assert (out - exact).norm() > 0.3 * exact.norm()
