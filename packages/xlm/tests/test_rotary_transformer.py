import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from pellucid.core import ArgumentError
from pellucid.xlm.modules import (
    NeighbourMixing,
    RotaryEmbedding,
    RotaryTransformer,
    RotaryTransformerLayer,
    RotaryTransformerLayerList,
    attention_mask_of,
    document_block_mask,
    document_mask,
    positions_of,
    rotate,
)

D_VOCAB = 19


class Causal(RotaryTransformer):
    is_causal = True

    def forward(self, *args, **kwargs):
        return self.run(*args, **kwargs)


class Bidirectional(RotaryTransformer):
    def forward(self, *args, **kwargs):
        return self.run(*args, **kwargs)


def tiny(kind, **settings):
    torch.manual_seed(0)
    settings = {"dropout": 0.0, "max_length": 64, "mix_neighbours": True, **settings}
    model = kind(D_VOCAB, 32, 2, 4, **settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.3 * torch.randn_like(weight))
    return model


def some_ids(rows=3, length=10, seed=0):
    return torch.randint(1, D_VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


KINDS = [
    pytest.param(kind, tied, id=f"{kind.__name__}-{'tied' if tied else 'untied'}")
    for kind, tied in itertools.product((Causal, Bidirectional), (False, True))
]


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_logits_have_a_row_for_every_token(kind, tied):
    logits = tiny(kind, tie_embeddings=tied)(some_ids())
    assert logits.shape == (3, 10, D_VOCAB)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_what_is_padded_is_read_as_it_would_be_alone(kind, tied):
    model, ids = tiny(kind, tie_embeddings=tied), some_ids(1, 6)
    alone = model(ids)
    junk = some_ids(1, 3, seed=1)
    for left in range(4):
        padded = torch.cat((junk[:, :left], ids, junk[:, left:]), dim=1)
        mask = torch.zeros(1, 9, dtype=torch.bool)
        mask[:, left : left + 6] = True
        logits = model(padded, mask)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:, left : left + 6], alone)
        torch.testing.assert_close(
            model(padded, mask, positions_of(mask))[:, left : left + 6], alone
        )


@pytest.mark.parametrize("mix", [False, True])
def test_the_future_is_hidden_from_a_causal_model(mix):
    model, ids = tiny(Causal, mix_neighbours=mix), some_ids()
    changed = ids.clone()
    changed[:, 6:] = some_ids(3, 4, seed=1)
    torch.testing.assert_close(model(ids)[:, :6], model(changed)[:, :6])
    assert not torch.allclose(model(ids)[:, 6:], model(changed)[:, 6:])


def test_a_bidirectional_model_sees_both_sides():
    model, ids = tiny(Bidirectional), some_ids(1)
    for changed_at in (0, 9):
        changed = ids.clone()
        changed[0, changed_at] = (ids[0, changed_at] + 1) % D_VOCAB
        assert not torch.allclose(model(ids)[0, 5], model(changed)[0, 5])


@pytest.mark.parametrize("kind", [Causal, Bidirectional])
def test_only_the_logits_that_are_wanted_are_made(kind):
    model, ids = tiny(kind), some_ids()
    where = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    wanted, every = model(ids, where=where), model(ids)[where]
    torch.testing.assert_close(wanted, every)
    gradients = [
        torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        for logits in (wanted, every)
    ]
    torch.testing.assert_close(*gradients)


def test_the_last_layer_computes_what_is_read_unless_somebody_looks(monkeypatch):
    model, ids, seen = tiny(Bidirectional), some_ids(), []
    where = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    last = model.layers[-1]
    monkeypatch.setattr(last, "activation", lambda x: seen.append(x.shape[:-1]) or x.relu())
    expected = model(ids, where=where)
    handle = last.ff_in.register_forward_hook(lambda module, inputs, output: None)
    torch.testing.assert_close(model(ids, where=where), expected)
    handle.remove()
    model(ids, where=where)
    assert seen == [(int(where.sum()),), ids.shape, (int(where.sum()),)]


@pytest.mark.parametrize("kind", [Causal, Bidirectional])
@pytest.mark.parametrize("is_flex", [False, True])
def test_packed_documents_are_read_as_they_would_be_alone(kind, is_flex, recwarn):
    model = tiny(kind)
    first, second = some_ids(2, 7), some_ids(2, 5, seed=1)
    packed = torch.cat((first, second), dim=1)
    segments = torch.tensor([[0] * 7 + [1] * 5]).expand(2, -1)
    positions = torch.tensor([[*range(7), *range(5)]]).expand(2, -1)
    make = document_block_mask if is_flex else document_mask
    mask = make(segments, is_causal=model.is_causal)
    assert isinstance(mask, BlockMask) == is_flex
    # What flex attention says about its uncompiled form is no news: it is the reference here.
    with pytest.MonkeyPatch.context() as patch:
        if is_flex:
            patch.setattr("warnings.warn", lambda *_, **__: None)
        with torch.no_grad():  # flex attention has no backward pass on the CPU
            logits = model(packed, mask, positions)
    torch.testing.assert_close(logits[:, :7], model(first), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[:, 7:], model(second), rtol=1e-4, atol=1e-4)


@given(
    cuts=st.lists(st.integers(1, 9), max_size=3, unique=True).map(sorted),
    left=st.integers(0, 3),
    mix=st.booleans(),
)
def test_a_cache_changes_nothing(cuts, left, mix):
    model, ids = tiny(Causal, mix_neighbours=mix), some_ids(2)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, :left] = False
    whole = model(ids, mask)
    cache = model.new_cache(2, 10)
    ends = [*cuts, 10]
    parts = [
        model(ids[:, start:end], mask[:, :end], cache=cache)
        for start, end in zip([0, *cuts], ends, strict=True)
    ]
    pieced = torch.cat(parts, dim=1)
    torch.testing.assert_close(pieced[mask], whole[mask], rtol=1e-4, atol=1e-4)


def test_rows_leave_a_cache():
    model, ids = tiny(Causal), some_ids(3)
    cache = model.new_cache(3, 10)
    model(ids[:, :6], cache=cache)
    kept = torch.tensor([True, False, True])
    cache.keep_rows(kept)
    torch.testing.assert_close(
        model(ids[kept, 6:7], cache=cache), model(ids)[kept, 6:7], rtol=1e-4, atol=1e-4
    )


def test_a_cache_says_what_it_cannot_hold():
    model, ids = tiny(Causal), some_ids(2)
    with pytest.raises(ArgumentError, match="no room for 10 more"):
        model(ids, cache=model.new_cache(2, 9))
    with pytest.raises(ArgumentError, match=r"give one of shape \(2, 10\)"):
        model(ids, torch.ones(2, 4, dtype=torch.bool), cache=model.new_cache(2, 10))
    with pytest.raises(ArgumentError, match="Bidirectional is not causal"):
        tiny(Bidirectional).new_cache(2, 9)


def test_layers_start_with_weights_of_their_own():
    layers = RotaryTransformerLayerList(3, d_model=16, nhead=2)
    for one, other in itertools.combinations(layers, 2):
        assert not torch.equal(one.attn_qkv.weight, other.attn_qkv.weight)
        assert not torch.equal(one.ff_out.weight, other.ff_out.weight)


def test_the_residual_stream_keeps_its_size_with_depth():
    torch.manual_seed(0)
    x = torch.randn(8, 16, 64)
    rotation = RotaryEmbedding(16, max_length=16)(None, 16)
    for depth in (2, 16):
        layers = RotaryTransformerLayerList(depth, d_model=64, nhead=4, dropout=0.0)
        assert 1.0 < layers(x, rotation, None).std() < 2.0


def test_the_parameters_are_parted_by_weight_decay():
    model = tiny(Causal)
    decaying = dict(model.get_named_params_for_weight_decay())
    others = dict(model.get_named_params_for_no_weight_decay())
    assert not decaying.keys() & others.keys()
    assert decaying.keys() | others.keys() == dict(model.named_parameters()).keys()
    assert "layers.0.norm1.weight" in others
    assert "layers.0.ff_in.bias" in others
    assert "layers.0.ff_in.weight" in decaying


def test_tied_embeddings_are_one_parameter():
    tied, untied = tiny(Causal, tie_embeddings=True), tiny(Causal)
    n_more = sum(w.numel() for w in untied.parameters()) - sum(w.numel() for w in tied.parameters())
    assert n_more == D_VOCAB * 32
    pointers = [weight.data_ptr() for weight in tied.state_dict().values()]
    assert len(set(pointers)) == len(pointers)


def test_rotation_keeps_lengths_and_sees_only_distances():
    rotary = RotaryEmbedding(8, max_length=32)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 12, generator=generator)

    def product(query_at, key_at):
        at_query, at_key = (
            rotary(torch.tensor([[position]]), 1) for position in (query_at, key_at)
        )
        return (rotate(query, at_query) * rotate(key, at_key)).sum()

    torch.testing.assert_close(rotate(query, rotary(torch.tensor([[9]]), 1)).norm(), query.norm())
    torch.testing.assert_close(product(5, 2), product(25, 22))
    assert not torch.allclose(product(5, 2), product(5, 3))


def test_mixing_neighbours_is_a_convolution():
    torch.manual_seed(0)
    mixing, x = NeighbourMixing(4, is_causal=False), torch.randn(2, 5, 4)
    kernel = torch.stack((mixing.before.weight, torch.eye(4), mixing.after.weight), dim=-1)
    naive = nn.functional.conv1d(x.transpose(1, 2), kernel, padding=1).transpose(1, 2)
    torch.testing.assert_close(mixing(x, None), naive)
    torch.testing.assert_close(mixing(x, torch.arange(5).expand(2, -1)), naive)


def test_a_mask_that_hides_nothing_is_no_mask():
    full = torch.ones(2, 5, dtype=torch.bool)
    assert attention_mask_of(full, 5, is_causal=True) == (None, True)
    assert attention_mask_of(full.long(), 5, is_causal=False) == (None, False)
    assert attention_mask_of(None, 5, is_causal=True) == (None, True)
    partial = full.clone()
    partial[0, 4] = False
    mask, is_causal = attention_mask_of(partial, 5, is_causal=False)
    assert mask.shape == (2, 1, 1, 5)
    assert not is_causal


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="nhead=3 does not divide d_model=16"):
        RotaryTransformerLayer(16, 3)
    with pytest.raises(ArgumentError, match="activation 'swish' is unknown"):
        RotaryTransformerLayer(16, 2, activation="swish")
    with pytest.raises(ArgumentError, match="d_rotary is 5"):
        RotaryEmbedding(5, max_length=4)
    with pytest.raises(ArgumentError, match="65 tokens do not fit into max_length=64"):
        tiny(Causal)(some_ids(1, 65))
    with pytest.raises(ArgumentError, match=r"shape \(5,\) is neither"):
        tiny(Causal)(some_ids(1, 5), torch.ones(5, dtype=torch.bool))
