"""Weights in the shapes that users know, against what hooks see, for every record."""

import functools

import pytest
import torch
from tiny_cases import CASES, make_inputs, make_model
from torch import nn

from pellucid.bridge import (
    Architecture,
    Attention,
    Block,
    ExpertWeights,
    FactoredMatrix,
    Mlp,
    Stack,
    TransformerBridge,
    TransformerBridgeConfig,
    WeightError,
    build_bridge_from_module,
)
from pellucid.bridge._weights._views import StackedViews, WeightView

# Whatever the architecture calls them: all sizes differ where a configuration lets them, or all
# are the same, so that no shape tells one axis from another.
_DIFFERENT = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner"), 56),
    "vocab_size": 101,
}
_SQUARE = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"), 32),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 4),
    "vocab_size": 32,
}
SIZES = {"different": _DIFFERENT, "square": _SQUARE}
PER_MODEL = pytest.mark.parametrize(
    ("case", "sizes"),
    [(case, sizes) for case in CASES for sizes in SIZES],
    ids=[f"{case} {sizes}" for case in CASES for sizes in SIZES],
)


@functools.cache
def _make_bridge(case, sizes):
    return TransformerBridge(make_model(case, **SIZES[sizes]))


@functools.cache
def _make_cache(case, sizes):
    bridge = _make_bridge(case, sizes)
    ids, more = make_inputs(bridge)
    with torch.no_grad():
        return ids, bridge.run_with_cache(ids, **more)[1]


def _close(made, expected):
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-4)


def _of(bridge, name, like):
    """Return a bias, zeros if the model has none."""
    held = name in bridge.weight_table()
    return bridge.get_weight(name) if held else torch.zeros_like(like)


def _owners(bridge, short):
    ends = f".{short}"
    return [name.removesuffix(ends) for name in bridge.weight_table() if name.endswith(ends)]


@PER_MODEL
def test_queries_keys_and_values_are_made_by_their_weights(case, sizes):
    bridge = _make_bridge(case, sizes)
    _, cache = _make_cache(case, sizes)
    n_seen = 0
    for which in "qkv":
        for owner in _owners(bridge, f"W_{which.upper()}"):
            names = [f"{owner}.{n}.hook_in" for n in (which, "qkv", "kv")]
            taken = next(cache[name] for name in names if name in cache)
            weight = bridge.get_weight(f"{owner}.W_{which.upper()}")
            bias = _of(bridge, f"{owner}.b_{which.upper()}", weight[:, 0])
            made = torch.einsum("...i,hid->...hd", taken, weight) + bias
            _close(made, cache[f"{owner}.hook_{which}"])
            n_seen += 1
    n_attentive = sum(name.endswith(".hook_pattern") for name in bridge.hook_table())
    assert n_seen == 3 * n_attentive


@PER_MODEL
def test_heads_write_by_their_weights(case, sizes):
    bridge = _make_bridge(case, sizes)
    _, cache = _make_cache(case, sizes)
    owners = _owners(bridge, "W_O")
    for owner in owners:
        weight = bridge.get_weight(f"{owner}.W_O")
        made = torch.einsum("...hd,hdo->...o", cache[f"{owner}.hook_z"], weight)
        _close(made + _of(bridge, f"{owner}.b_O", weight[0, 0]), cache[f"{owner}.o.hook_out"])
    assert len(owners) == sum(name.endswith(".hook_pattern") for name in bridge.hook_table())


@PER_MODEL
def test_neurons_are_made_and_write_by_their_weights(case, sizes):
    bridge = _make_bridge(case, sizes)
    _, cache = _make_cache(case, sizes)
    n_seen = 0
    for letter in ("in", "gate"):
        for owner in _owners(bridge, f"W_{letter}"):
            weight = bridge.get_weight(f"{owner}.W_{letter}")
            if weight.ndim == 3:
                continue  # Experts, which have a test of their own.
            names = [f"{owner}.{n}.hook_in" for n in (letter, "gate_in")]
            taken = next(cache[name] for name in names if name in cache)
            bias = _of(bridge, f"{owner}.b_{letter}", weight[0])
            _close(taken @ weight + bias, cache[f"{owner}.{letter}.hook_out"])
            n_seen += 1
    for owner in _owners(bridge, "W_out"):
        weight = bridge.get_weight(f"{owner}.W_out")
        if weight.ndim == 2:
            made = cache[f"{owner}.hook_post"] @ weight + _of(bridge, f"{owner}.b_out", weight[0])
            _close(made, cache[f"{owner}.out.hook_out"])
    assert n_seen >= sum(name.endswith(".mlp.hook_post") for name in bridge.hook_table())


@PER_MODEL
def test_experts_are_made_of_their_weights(case, sizes):
    bridge = _make_bridge(case, sizes)
    _, cache = _make_cache(case, sizes)
    for owner in _owners(bridge, "W_router"):
        weight = bridge.get_weight(f"{owner}.W_router")
        bias = _of(bridge, f"{owner}.b_router", weight[0])
        taken = cache[f"{owner}.router.hook_in"].flatten(0, -2)
        made = (taken @ weight + bias).view_as(cache[f"{owner}.router.hook_out"])
        _close(made, cache[f"{owner}.router.hook_out"])
        assert bridge.get_weight(f"{owner}.W_in").ndim == 3
        for number in range(weight.shape[1]):
            index = torch.full((len(taken), 1), number)
            experts = bridge.get_component(f"{owner}.experts").original_component
            with torch.no_grad():
                given = experts(taken, index, torch.ones(len(taken), 1))
            _close(_run_expert(bridge, owner, number, taken), given)
    has_experts = any(name.endswith(".experts.hook_in") for name in bridge.hook_table())
    assert bool(_owners(bridge, "W_router")) is has_experts


def _run_expert(bridge, owner, number, taken):
    def apply(x, letter):
        weight = bridge.get_weight(f"{owner}.W_{letter}")[number]
        name = f"{owner}.b_{letter}"
        has_bias = name in bridge.weight_table()
        return x @ weight + (bridge.get_weight(name)[number] if has_bias else 0)

    gate, linear = apply(taken, "gate"), apply(taken, "in")
    if "GptOss" in bridge.cfg.architecture:
        gate, linear = gate.clamp(max=7.0), linear.clamp(-7.0, 7.0) + 1
        return apply(linear * gate * torch.sigmoid(gate * 1.702), "out")
    return apply(nn.functional.silu(gate) * linear, "out")


@PER_MODEL
def test_embeddings_are_rows_and_logits_products(case, sizes):
    bridge = _make_bridge(case, sizes)
    ids, cache = _make_cache(case, sizes)
    scale = cache["embed.hook_out"].norm() / bridge.W_E.detach()[ids].norm()
    _close(bridge.W_E[ids] * scale, cache["embed.hook_out"])
    assert "Gemma" in case.name or float(scale) == pytest.approx(1, abs=1e-5)
    for name in _owners(bridge, "W_pos"):
        given = cache[f"{name}.hook_out"]
        rows = bridge.get_weight(f"{name}.W_pos")[: ids.shape[1]]
        _close(rows.expand(given.shape[0], -1, -1), given.reshape(-1, *rows.shape))
    made = cache["unembed.hook_in"] @ bridge.W_U
    _close(made + _of(bridge, "unembed.b_U", made[0, 0]), cache["unembed.hook_out"])


@PER_MODEL
def test_a_weight_is_a_part_of_one_parameter_and_gets_its_gradient(case, sizes):
    bridge = _make_bridge(case, sizes)
    parameters = {id(p) for p in bridge.parameters()} | {
        id(b) for b in bridge.original_model.buffers()
    }
    for name, spec in bridge.weight_table().items():
        view = spec.source
        assert isinstance(view, WeightView)
        whole = getattr(view.module, view.parameter)
        assert id(whole) in parameters, name
        assert len(spec.shape.split()) == view.get().ndim
        leaf = whole.detach().clone().requires_grad_(True)
        part = view.read(leaf)
        # Taking a part is choosing entries: the gradient of their sum says which.
        (chosen,) = torch.autograd.grad(part.sum(), leaf)
        assert set(chosen.unique().tolist()) <= {0.0, 1.0}
        assert chosen.sum() == part.numel()
        new = torch.randn(part.shape)
        placed = view.place(leaf.detach(), new)
        assert torch.equal(view.read(placed), new), name
        assert torch.equal(placed[chosen == 0], leaf.detach()[chosen == 0])
        if whole.requires_grad:
            bridge.get_weight(name).sum().backward()
            assert torch.equal(whole.grad, chosen)
            whole.grad = None


@PER_MODEL
def test_circuits_are_products_of_one_heads_weights(case, sizes):
    bridge = _make_bridge(case, sizes)
    for owner in _owners(bridge, "W_Q"):
        if case.kind.startswith("Deepseek"):
            with pytest.raises(WeightError, match="of a latent"):
                bridge.get_circuit(owner, "QK")
            continue
        made = {c: bridge.get_circuit(owner, c).AB for c in ("QK", "OV")}
        weights = {w: bridge.get_weight(f"{owner}.W_{w}") for w in "QKVO"}
        n_heads = weights["Q"].shape[0]
        for head in range(n_heads):
            key_head = head * weights["K"].shape[0] // n_heads
            _close(made["QK"][head], weights["Q"][head] @ weights["K"][key_head].T)
            _close(made["OV"][head], weights["V"][key_head] @ weights["O"][head])


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "LlamaForCausalLM"], ids=str)
def test_all_blocks_at_once(case):
    bridge = _make_bridge(case, "different")
    n_layers, d_model, d_head = 2, 64, 8
    assert bridge.W_Q.shape == (n_layers, 4, d_model, d_head)
    assert bridge.W_K.shape == bridge.W_V.shape == (n_layers, 2, d_model, d_head)
    assert bridge.W_O.shape == (n_layers, 4, d_head, d_model)
    assert bridge.W_in.shape == bridge.W_gate.shape == (n_layers, d_model, 56)
    assert bridge.W_out.shape == (n_layers, 56, d_model)
    assert bridge.W_E.shape == (101, d_model)
    assert bridge.W_U.shape == (d_model, 101)
    assert torch.equal(bridge.W_Q[1], bridge.blocks[1].attn.W_Q)
    assert torch.equal(bridge.stack_params_for("mlp", "mlp.W_in")[1], bridge.W_in)
    halves = bridge.stack_params_for("attn", "attn.W_O", lambda weight: weight.flatten(0, 1))
    assert halves[0] == [0, 1]
    assert halves[1].shape == (n_layers, 4 * d_head, d_model)
    assert isinstance(bridge.QK, FactoredMatrix)
    assert bridge.QK.shape == bridge.OV.shape == (n_layers, 4, d_model, d_model)
    assert torch.equal(bridge.QK.A, bridge.W_Q)
    assert torch.equal(bridge.blocks[1].attn.OV.A, bridge.OV.A[1])
    assert bridge.blocks[0].ln1.w is not None
    assert torch.equal(bridge.expand_key_heads("blocks.0.attn.W_K")[1], bridge.W_K[0, 0])
    assert torch.equal(bridge.expand_key_heads("blocks.0.attn.W_O"), bridge.W_O[0])
    bridge.W_Q.square().sum().backward()
    projections = [layer.self_attn.q_proj for layer in bridge.original_model.model.layers]
    assert all(torch.equal(p.weight.grad, 2 * p.weight) for p in projections)


def test_gpt2_has_positions_and_biases(gpt2):
    n_layers, n_heads, d_model = len(gpt2.blocks), gpt2.cfg.n_heads, gpt2.cfg.d_model
    assert gpt2.b_Q.shape == gpt2.b_K.shape == gpt2.b_V.shape == (n_layers, n_heads, 8)
    assert gpt2.b_O.shape == gpt2.b_out.shape == (n_layers, d_model)
    assert gpt2.b_in.shape == (n_layers, gpt2.W_in.shape[-1])
    assert torch.equal(gpt2.W_E_pos, torch.cat([gpt2.W_E, gpt2.W_pos]))
    assert gpt2.W_gate is None
    # No copy: what is written into a view is in the model.
    with torch.no_grad():
        gpt2.blocks[0].attn.W_K[1].zero_()
    width = gpt2.cfg.d_model
    assert (
        not gpt2.original_model.transformer.h[0].attn.c_attn.weight[:, width + 8 : width + 16].any()
    )


def test_all_parameters_by_name(bridge):
    params = bridge.get_params()
    n_heads, d_model = bridge.cfg.n_heads, bridge.cfg.d_model
    for short in ("W_Q", "W_K", "W_V"):
        assert params[f"blocks.1.attn.{short}"].shape == (n_heads, d_model, bridge.cfg.d_head)
        bias = params[f"blocks.1.attn.b_{short[-1]}"]
        assert bias.shape == (n_heads, bridge.cfg.d_head)
        assert f"blocks.1.attn.b_{short[-1]}" in bridge.weight_table() or not bias.any()
    assert params["blocks.0.attn.b_O"].shape == params["blocks.0.mlp.b_out"].shape == (d_model,)
    assert params["unembed.b_U"].shape == (bridge.cfg.d_vocab,)
    assert {"embed.W_E", "ln_final.w", "blocks.0.ln1.w", "unembed.W_U"} <= params.keys()
    named = dict(bridge.tl_named_parameters())
    assert named.keys() == params.keys() == bridge.tl_parameters().keys()
    params["blocks.0.attn.W_V"].sum().backward()
    assert any(p.grad is not None for p in bridge.parameters())


def test_what_is_absent_is_refused_by_name(llama, gpt2):
    for read in (lambda: llama.b_Q, lambda: llama.blocks[0].attn.b_Q):
        with pytest.raises(WeightError, match=r"'blocks.0.attn.b_Q'.*W_Q, W_K, W_V, W_O.*zeros"):
            read()
    with pytest.raises(AttributeError, match="W_pos"):
        _ = llama.W_pos
    assert not hasattr(gpt2, "b_gate")
    with pytest.raises(WeightError, match="no block has a part 'mixer'"):
        gpt2.stack_params_for("mixer", "mixer.W")
    with pytest.raises(AttributeError, match="no_such"):
        _ = gpt2.no_such
    with pytest.raises(WeightError, match="weight_table"):
        gpt2.get_weight("nowhere.W_Q")


def test_hybrids_say_which_blocks_they_speak_of(caplog):
    case = next(c for c in CASES if c.kind == "Qwen3NextForCausalLM")
    bridge = _make_bridge(case, "different")
    assert bridge.stack_params_for("attn", "attn.W_Q")[0] == [1]
    assert bridge.W_Q.shape[0] == 1
    assert "blocks [1]" in caplog.text
    assert bridge.QK_for_attn_layers()[0] == bridge.OV_for_attn_layers()[0] == [1]
    mixed = next(c for c in CASES if c.kind == "Qwen2MoeForCausalLM")
    with pytest.raises(WeightError, match="differs in shape from block to block"):
        _ = _make_bridge(mixed, "different").W_in
    states = next(c for c in CASES if c.kind == "MambaForCausalLM")
    with pytest.raises(WeightError, match="no block has attention: blocks are mixer"):
        _ = _make_bridge(states, "different").QK
    two = next(c for c in CASES if c.kind == "BartForConditionalGeneration")
    with pytest.raises(WeightError, match="encoder_blocks, decoder_blocks"):
        _ = _make_bridge(two, "different").W_Q
    assert _make_bridge(two, "different").decoder_blocks[0].cross_attn.W_Q.ndim == 3


def test_quantised_absent_and_adapted_weights_are_refused(llama):
    layer = llama.original_model.model.layers[0].self_attn.q_proj
    held = layer.weight
    layer.weight = nn.Parameter(held.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised"):
        _ = llama.W_Q
    layer.weight = nn.Parameter(held.to("meta"))
    with pytest.raises(ValueError, match="kept elsewhere"):
        _ = llama.W_Q
    layer.weight = held
    layer.base_layer = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Merge the adapter"):
        _ = llama.W_Q


class _Grouped(nn.Module):
    """Attention whose projection holds, for each key head, its queries, its key and its value."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = 4, 2, 3
        self.wqkv = nn.Linear(10, 2 * 4 * 3)
        self.wo = nn.Linear(12, 10)

    def forward(self, x):
        groups = self.wqkv(x).unflatten(-1, (2, 4, 3))
        q, k, v = groups[..., :2, :], groups[..., 2:3, :], groups[..., 3:4, :]
        scores = torch.einsum("bqgnd,bkgnd->bgnqk", q, k.expand_as(q)).softmax(-1)
        mixed = torch.einsum("bgnqk,bkgnd->bqgnd", scores, v.expand_as(q))
        return self.wo(mixed.flatten(-3))


class _ListedExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(10, 3)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"w1": nn.Linear(10, 7), "w3": nn.Linear(10, 7), "w2": nn.Linear(7, 10)})
            for _ in range(3)
        )

    def forward(self, x):
        weights = self.router(x).softmax(-1)
        given = [e["w2"](e["w1"](x).relu() * e["w3"](x)) for e in self.experts]
        return torch.einsum("bpe,ebpd->bpd", weights, torch.stack(given))


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.feed_forward = _Grouped(), _ListedExperts()

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class _Grouping(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 10)
        self.layers = nn.ModuleList(_Block() for _ in range(2))
        self.head = nn.Linear(10, 11, bias=False)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_groups_and_lists_of_experts_of_models_from_elsewhere():
    torch.manual_seed(0)
    model = _Grouping()
    experts = ExpertWeights(gate_in=None, gate="w1", in_="w3", out="w2", is_list=True)
    record = Architecture(
        classes=("_Grouping",),
        parts={"embed": "embed", "unembed": "head"},
        stacks=(
            Stack(
                path="layers",
                block=Block(
                    attn=Attention(path="attention", qkv="wqkv", fusion="groups", o="wo"),
                    mlp=Mlp(
                        path="feed_forward", router="router", experts="experts",
                        expert_weights=experts,
                    ),
                ),
            ),
        ),
    )  # fmt: skip
    config = TransformerBridgeConfig(d_model=10, n_layers=2, n_heads=4, d_head=3, d_vocab=11)
    bridge = build_bridge_from_module(model, record, tl_config=config)
    _, cache = bridge.run_with_cache(
        torch.tensor([[1, 2, 3]]), names_filter=lambda n: "pattern" not in n and "score" not in n
    )
    for which in "qkv":
        weight = bridge.get_weight(f"blocks.0.attn.W_{which.upper()}")
        bias = bridge.get_weight(f"blocks.0.attn.b_{which.upper()}")
        taken = cache["blocks.0.attn.qkv.hook_in"]
        made = torch.einsum("bpi,hid->bphd", taken, weight) + bias
        _close(made, cache[f"blocks.0.attn.hook_{which}"])
    assert bridge.W_in.shape == bridge.W_gate.shape == (2, 3, 10, 7)
    assert isinstance(bridge.weight_table()["blocks.0.mlp.W_in"].source, StackedViews)
    layer = model.layers[1].feed_forward.experts[2]
    assert torch.equal(bridge.W_in[1, 2], layer["w3"].weight.T)
    assert torch.equal(bridge.b_gate[1, 2], layer["w1"].bias)
    bridge.W_out[1, 2].sum().backward()
    assert torch.equal(layer["w2"].weight.grad, torch.ones(10, 7))
