import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pellucid.core import ArgumentError
from pellucid.xlm.modules import (
    AdaLNModulations,
    DDiT,
    DDiTLayer,
    RotaryEmbedding,
    RotaryTransformerLayer,
    ScalarLengthHead,
    TimestepEmbedder,
    document_block_mask,
    document_mask,
    positions_of,
)

STILL = ("norm", "bias", "modulations", "final_layer.linear", "linear_out")
D_VOCAB, D_MODEL, D_COND = 19, 32, 8


class Told(DDiT):
    def forward(self, ids, mask=None, positions=None, t=None, *, where=None):
        t = torch.full((len(ids),), 0.5) if t is None else t
        return self.run(ids, mask, positions, self.timestep(t), where=where)


def shaken(module, scale=0.3):
    """Move every weight that starts at zero or one away from there."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if any(word in name for word in STILL):
                weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return module


def tiny(**settings):
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "max_length": 64, "mix_neighbours": True, **settings}
    return Told(D_VOCAB, D_MODEL, 2, 4, d_cond=D_COND, **settings).eval()


def some_ids(rows=3, length=10, seed=0):
    return torch.randint(1, D_VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def some_layer(**settings):
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "dim_feedforward": 64, **settings}
    return DDiTLayer(D_MODEL, 4, D_COND, **settings)


def some_stream():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 6, D_MODEL, generator=generator)
    return x, RotaryEmbedding(8, max_length=6)(None, 6), torch.randn(3, D_COND, generator=generator)


def test_a_layer_whose_gates_are_closed_is_the_identity():
    layer, (x, rotation, conditioning) = some_layer(), some_stream()
    assert torch.equal(layer(x, rotation, None, conditioning), x)
    # Closed by its weights, and not because everything else is zero, too.
    shaken(layer)
    gates = layer.modulations.linear
    with torch.no_grad():
        for gate in (2, 5):
            rows = slice(gate * D_MODEL, (gate + 1) * D_MODEL)
            gates.weight[rows], gates.bias[rows] = 0, 0
    assert torch.equal(layer(x, rotation, None, conditioning), x)


def test_a_layer_whose_gates_are_one_adds_to_the_stream_what_a_plain_layer_adds():
    """What is added to is the stream itself, and not its norm."""
    layer, (x, rotation, conditioning) = some_layer(), some_stream()
    plain = RotaryTransformerLayer(D_MODEL, 4, 64, dropout=0.0, activation="gelu")
    plain.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        for gate in (2, 5):
            layer.modulations.linear.bias[gate * D_MODEL : (gate + 1) * D_MODEL] = 1
    found = layer(x, rotation, None, conditioning)
    torch.testing.assert_close(found, plain(x, rotation, None))


def test_a_layer_is_what_its_formula_says():
    layer, (x, rotation, conditioning) = shaken(some_layer()), some_stream()
    shift1, scale1, gate1, shift2, scale2, gate2 = layer.modulations(conditioning)
    read = layer.norm1(x) * (1 + scale1) + shift1
    mixed = layer._attend(read, rotation, None, False, None, 0)
    middle = x + gate1 * layer.attn_out(mixed)
    read = layer.norm2(middle) * (1 + scale2) + shift2
    expected = middle + gate2 * layer.ff_out(functional.gelu(layer.ff_in(read), approximate="tanh"))
    torch.testing.assert_close(layer(x, rotation, None, conditioning), expected)


def test_a_new_network_finds_all_tokens_equally_likely():
    model, ids = tiny(), some_ids()
    logits = model(ids)
    assert logits.shape == (3, 10, D_VOCAB)
    assert torch.equal(logits, torch.zeros_like(logits))
    loss = functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert loss.item() == pytest.approx(math.log(D_VOCAB), rel=1e-6)
    loss.backward()
    assert model.final_layer.linear.weight.grad.any()


@pytest.mark.parametrize("tied", [False, True])
def test_the_time_is_read(tied):
    model, ids = shaken(tiny(tie_embeddings=tied)), some_ids()
    early, late = (model(ids, t=torch.full((3,), t)) for t in (0.2, 0.201))
    assert not torch.allclose(early, late, atol=1e-3)
    mixed = model(ids, t=torch.tensor([0.2, 0.201, 0.2]))
    torch.testing.assert_close(mixed[[0, 2]], early[[0, 2]])
    torch.testing.assert_close(mixed[1], late[1])


def test_what_is_padded_is_read_as_it_would_be_alone():
    model, ids = shaken(tiny()), some_ids(1, 6)
    alone, junk = model(ids), some_ids(1, 3, seed=1)
    for left in range(4):
        padded = torch.cat((junk[:, :left], ids, junk[:, left:]), dim=1)
        mask = torch.zeros(1, 9, dtype=torch.bool)
        mask[:, left : left + 6] = True
        for positions in (None, positions_of(mask)):
            logits = model(padded, mask, positions)
            assert logits.isfinite().all()
            torch.testing.assert_close(logits[:, left : left + 6], alone)


def test_both_sides_are_seen():
    model, ids = shaken(tiny()), some_ids(1)
    for changed_at in (0, 9):
        changed = ids.clone()
        changed[0, changed_at] = (ids[0, changed_at] + 1) % D_VOCAB
        assert not torch.allclose(model(ids)[0, 5], model(changed)[0, 5])


@pytest.mark.parametrize("tied", [False, True])
def test_only_the_logits_that_are_wanted_are_made(tied):
    model, ids = shaken(tiny(tie_embeddings=tied)), some_ids()
    where = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    t = torch.tensor([0.1, 0.5, 0.9])
    wanted, every = model(ids, t=t, where=where), model(ids, t=t)[where]
    torch.testing.assert_close(wanted, every)
    gradients = [
        torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        for logits in (wanted, every)
    ]
    torch.testing.assert_close(*gradients)
    with model.layers[-1].register_forward_hook(lambda module, inputs, output: None):
        torch.testing.assert_close(model(ids, t=t, where=where), every)


def test_heads_read_what_logits_are_made_of():
    model, ids = shaken(tiny()), some_ids()
    conditioning = model.timestep(torch.full((3,), 0.5))
    hidden = model.encode(ids, None, None, conditioning)
    assert hidden.shape == (3, 10, D_MODEL)
    torch.testing.assert_close(model.read_logits(hidden, conditioning), model(ids))


@pytest.mark.parametrize("make", [document_mask, document_block_mask])
def test_packed_documents_are_read_as_they_would_be_alone(make):
    model = shaken(tiny())
    first, second = some_ids(2, 7), some_ids(2, 5, seed=1)
    segments = torch.tensor([[0] * 7 + [1] * 5]).expand(2, -1)
    positions = torch.tensor([[*range(7), *range(5)]]).expand(2, -1)
    # What flex attention says about its uncompiled form is no news; it runs only forward here.
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        if make is document_block_mask:
            patch.setattr("warnings.warn", lambda *_, **__: None)
        packed = model(torch.cat((first, second), dim=1), make(segments), positions)
    torch.testing.assert_close(packed[:, :7], model(first), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed[:, 7:], model(second), rtol=1e-4, atol=1e-4)


def test_layers_do_not_begin_alike():
    first, second = tiny().layers
    assert not torch.equal(first.attn_qkv.weight, second.attn_qkv.weight)


def test_every_weight_decays_or_does_not():
    model = tiny(tie_embeddings=True)
    decaying = {name for name, _ in model.get_named_params_for_weight_decay()}
    others = {name for name, _ in model.get_named_params_for_no_weight_decay()}
    assert decaying | others == {name for name, _ in model.named_parameters()}
    assert not decaying & others
    assert "layers.0.attn_qkv.weight" in decaying
    assert "layers.0.norm1.weight" in others


@given(
    times=st.lists(st.floats(min_value=0, max_value=1, width=32), min_size=1, max_size=5),
    frequencies=st.sampled_from([2, 8, 256]),
)
def test_waves_have_the_stated_lengths(times, frequencies):
    torch.manual_seed(0)
    embedder = TimestepEmbedder(D_COND, frequencies)
    half = frequencies // 2
    rows = [
        [math.cos(1000 * t * 10_000 ** (-i / half)) for i in range(half)]
        + [math.sin(1000 * t * 10_000 ** (-i / half)) for i in range(half)]
        for t in times
    ]
    hidden = functional.silu(embedder.linear_in(torch.tensor(rows)))
    expected = functional.silu(embedder.linear_out(hidden))
    torch.testing.assert_close(embedder(torch.tensor(times)), expected, rtol=1e-3, atol=2e-3)


def test_modulations_begin_at_zero_and_are_the_same_for_all_positions():
    made = AdaLNModulations(D_COND, D_MODEL, 3)(torch.randn(2, D_COND))
    assert [held.shape for held in made] == [(2, 1, D_MODEL)] * 3
    assert not any(held.any() for held in made)


@pytest.mark.parametrize("start", [0.01, 1.0, 50.0])
def test_a_new_length_head_expects_its_start(start):
    head, (x, _, conditioning) = ScalarLengthHead(D_MODEL, D_COND, 64, start=start), some_stream()
    lengths = head(x, conditioning)
    torch.testing.assert_close(lengths, torch.full((3, 6), start), rtol=1e-4, atol=0)
    lengths.sum().backward()
    assert head.linear_out.weight.grad.any()
    told = shaken(head)
    assert (told(x, conditioning) > 0).all()
    assert not torch.equal(told(x, conditioning), told(x, conditioning + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TimestepEmbedder(8, 7), "frequencies is 7"),
        (lambda: TimestepEmbedder(8, 0), "frequencies is 0"),
        (lambda: ScalarLengthHead(8, 4, 10, start=0), "start=0"),
        (lambda: DDiTLayer(10, 3, 4), "nhead=3 does not divide"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
