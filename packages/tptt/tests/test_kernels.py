"""The backend of flash-linear-attention: what it is given, and when it is taken.

Without a GPU a stand-in computes what the documentation of its functions says, in their layout;
with one, the tests marked `gpu` compare its kernels to ours.
"""

import pytest
import torch

from pellucid.core import ArgumentError, MissingDependencyError
from pellucid.testing import tiny_llama
from pellucid.tptt import (
    LinearAttentionOp,
    RecurrentMode,
    TpttConfig,
    get_tptt_model,
    linear_attention,
    list_liza,
)
from pellucid.tptt import _kernels as kernels

ORDERS = [1, 2, 3]


class StandIn:
    """The delta rule with positions before heads, one gate a head, as many heads of all kinds."""

    def __init__(self):
        self.calls = []

    def rule(self, q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
        return self.product(q, k, v, None, beta, 1, scale, initial_state, output_final_state)

    def product(
        self,
        q,
        k,
        v,
        g,
        beta,
        num_householder,
        scale=None,
        initial_state=None,
        output_final_state=False,
    ):
        batch, pos, heads, width = q.shape
        assert q.dtype == k.dtype == v.dtype != torch.float32
        assert k.shape == v.shape == (batch, pos * num_householder, heads, width)
        assert beta.shape == k.shape[:3]
        assert g is None
        assert output_final_state
        self.calls.append(num_householder)
        state = torch.zeros(batch, heads, width, width)
        if initial_state is not None:
            assert initial_state.dtype == torch.float32
            state = initial_state
        outs = []
        for at in range(k.shape[1]):
            key, value = k[:, at].float(), v[:, at].float()
            known = torch.einsum("bhk,bhkv->bhv", key, state)
            change = beta[:, at, :, None].float() * (value - known)
            state = state + torch.einsum("bhk,bhv->bhkv", key, change)
            if (at + 1) % num_householder == 0:
                query = q[:, at // num_householder].float() * scale
                outs.append(torch.einsum("bhk,bhkv->bhv", query, state))
        return torch.stack(outs, dim=1).to(q.dtype), state


@pytest.fixture
def stand_in(monkeypatch):
    fake = StandIn()
    monkeypatch.setattr(kernels, "_load", lambda: kernels.Kernels(fake.rule, fake.product))
    monkeypatch.setattr(kernels, "_is_installed", lambda: True)
    monkeypatch.setattr(kernels, "_is_on_gpu", lambda _: True)
    return fake


def halves(draw, **shape):
    return [x.bfloat16() for x in draw(head_gate=True, **shape)]


def close(got, expected):
    error = (got.float() - expected.float()).norm() / expected.float().norm()
    assert error < 0.01


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("trick", ["derivative", "rotative"])
def test_kernels_are_given_what_they_take(draw, stand_in, order, trick):
    inputs = halves(draw, heads=4, pos=21)
    state = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"mode": RecurrentMode(order=order, trick=trick), "lengths": torch.tensor([21, 13])}
    out, last = linear_attention(*inputs, state=state, **options)
    assert stand_in.calls == [order]
    exact = [x.float() for x in inputs]
    expected, expected_last = linear_attention(*exact, state=state, backend="torch", **options)
    assert out.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    close(out[0], expected[0])
    close(out[1, :, :13], expected[1, :, :13])
    close(last, expected_last)


@pytest.mark.parametrize("order", ORDERS)
def test_an_operator_goes_on_from_the_state_of_kernels(draw, stand_in, order):
    inputs = halves(draw, pos=20)
    name = f"delta_product_{order}" if order > 1 else "delta_rule"
    op = LinearAttentionOp(0, name, linear_precision=torch.bfloat16)
    parts = [op(*(x[:, :, a:b] for x in inputs), use_cache=True) for a, b in ((0, 12), (12, 20))]
    assert stand_in.calls == [order] * 2
    ours = LinearAttentionOp(0, name, linear_precision=torch.bfloat16, backend="torch")
    close(torch.cat(parts, dim=2), ours(*inputs))
    assert stand_in.calls == [order] * 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": torch.float32}, "half precision"),
        ({"head_gate": False}, "a gate for each channel"),
        ({"linear": False}, "gelu"),
        ({"backend": "torch"}, "asked for ours"),
    ],
)
def test_auto_takes_them_only_where_they_fit(draw, stand_in, options, why):
    dtype = options.get("dtype", torch.bfloat16)
    inputs = draw(head_gate=options.get("head_gate", True))
    mode = RecurrentMode(linear=options.get("linear", True))
    gate = inputs[3].to(dtype)
    backend = options.get("backend", "auto")
    assert not kernels.takes_kernels(backend, mode, gate, width=4, dtype=dtype), why


def test_auto_is_ours_without_a_gpu(draw):
    gate = draw(head_gate=True)[3].bfloat16()
    assert not kernels.takes_kernels("auto", RecurrentMode(), gate, width=4, dtype=gate.dtype)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": torch.float32}, "half precision, not torch.float32: use linear_precision="),
        ({"head_gate": False}, "one gate for each head: use gate_granularity='head'"),
        ({"width": 300}, "heads of 256 features at most, not 300"),
        ({"linear": False}, "no kernel for a mode with gelu. Use 'auto' or 'torch'"),
        ({"compat": "upstream"}, "no kernel for compat='upstream'"),
    ],
)
def test_what_kernels_cannot_do_is_refused_where_they_are_asked_for(draw, stand_in, options, match):
    dtype = options.get("dtype", torch.bfloat16)
    gate = draw(head_gate=options.get("head_gate", True))[3].to(dtype)
    with pytest.raises(ArgumentError, match=match):
        kernels.takes_kernels(
            "fla",
            RecurrentMode(linear=options.get("linear", True)),
            gate,
            width=options.get("width", 4),
            dtype=dtype,
            compat=options.get("compat"),
        )


def test_a_gpu_is_asked_for_by_name(draw, monkeypatch):
    monkeypatch.setattr(kernels, "_is_installed", lambda: True)
    op = LinearAttentionOp(0, backend="fla", linear_precision=torch.bfloat16)
    with pytest.raises(ArgumentError, match="a CUDA device, not on 'cpu': move the model"):
        op(*halves(draw))


def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(kernels, "_is_installed", lambda: False)
    base = tiny_llama()
    with pytest.raises(MissingDependencyError, match=r"Install pellucid-tptt\[fla\]"):
        get_tptt_model(base, base.config, backend="fla")
    assert not list_liza(base)
    kernels.check_backend("auto", RecurrentMode())


def test_a_backend_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="one of auto, torch, fla, got 'cuda'"):
        LinearAttentionOp(0, backend="cuda")
    with pytest.raises(ArgumentError, match="one of auto, torch, fla, got 'cuda'"):
        TpttConfig(tiny_llama().config, backend="cuda")


def test_the_backend_reaches_every_layer():
    base = tiny_llama()
    model, _ = get_tptt_model(base, base.config, backend="torch")
    assert {layer.linear_attn.linear_operator.backend for layer in list_liza(model)} == {"torch"}


@pytest.mark.gpu
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pos", [1, 63, 257, 2048])
def test_kernels_and_chunks_agree_on_a_gpu(draw, order, pos):
    pytest.importorskip("fla", reason="an extra")
    inputs = [x.cuda() for x in halves(draw, heads=4, pos=pos, width=64)]
    state = torch.randn(2, 2, 64, 64, device="cuda")
    cotangent = torch.randn(2, 4, pos, 64, device="cuda")
    results = []
    for backend in ("fla", "torch"):
        dtype = torch.bfloat16 if backend == "fla" else torch.float32
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out, last = linear_attention(
            *leaves, mode=RecurrentMode(order=order), state=state, backend=backend
        )
        total = (out.float() * cotangent).sum() + last.sum()
        results.append([out, last, *torch.autograd.grad(total, leaves)])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


@pytest.mark.gpu
def test_auto_takes_kernels_on_a_gpu(draw):
    pytest.importorskip("fla", reason="an extra")
    gate = draw(head_gate=True)[3].bfloat16().cuda()
    assert kernels.takes_kernels("auto", RecurrentMode(), gate, width=64, dtype=gate.dtype)
