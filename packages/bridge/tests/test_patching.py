"""Grids of patches are loops over single runs, and gradients are their limits."""

import functools
import itertools
import sys

import pytest
import torch
from tiny_cases import CASES, make_model

from pellucid.bridge import TransformerBridge, patching
from pellucid.bridge._analysis._attribution_patching import attribution_patch
from pellucid.bridge._analysis._edges import edge_attribution_patch
from pellucid.bridge._analysis._patching import generic_activation_patch
from pellucid.bridge._analysis._path_patching import path_patch
from pellucid.testing import tiny_gpt2, tiny_llama

CLEAN = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]])
CORRUPTED = torch.tensor([[5, 21, 7, 8, 9], [30, 12, 13, 3, 15]])
KINDS = (
    "GPT2LMHeadModel", "LlamaForCausalLM", "GPTNeoXForCausalLM", "Gemma2ForCausalLM",
    "OPTForCausalLM", "FalconForCausalLM", "BloomForCausalLM", "GPTJForCausalLM",
    "Olmo2ForCausalLM", "GraniteForCausalLM",
)  # fmt: skip
POST_NORMED = ("Gemma2ForCausalLM", "Olmo2ForCausalLM")
PER_KIND = pytest.mark.parametrize("kind", KINDS)
# What is patched inside attention depends on how it is made: fused, shared keys, in place.
PER_ATTENTION = pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[3], KINDS[5]])


@functools.cache
def find(kind, dtype=torch.float32):
    model = make_model(next(case for case in CASES if case.kind == kind))
    with torch.no_grad():
        for weight in model.parameters():
            # As they are drawn, queries and keys have no effect to speak of.
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    return TransformerBridge(model.to(dtype))


def metric(logits):
    return (logits[:, -1, 3] - logits[:, -1, 7]).mean() + logits[0, 1, 4]


def caches(bridge):
    with torch.no_grad():
        return tuple(bridge.run_with_cache(tokens)[1] for tokens in (CLEAN, CORRUPTED))


def brute_force(bridge, clean, activation, setter, shape, order=lambda index: index):
    made = torch.empty(shape)
    for index in itertools.product(*map(range, shape)):
        name = bridge.hook_table().resolve((activation, index[0]))

        def patch(value, hook, index=index, name=name):
            return setter(value.clone(), order(index), clean[name])

        with torch.no_grad():
            made[index] = metric(bridge.run_with_hooks(CORRUPTED, fwd_hooks=[(name, patch)]))
    return made


@PER_KIND
@pytest.mark.parametrize("limit", [None, 3])
def test_streams(kind, limit):
    bridge = find(kind)
    clean, _ = caches(bridge)
    for which in ("resid_pre", "resid_mid", "attn_out", "mlp_out"):
        if (which, 0) not in clean:
            continue
        grid = getattr(patching, f"get_act_patch_{which}")
        made = grid(bridge, CORRUPTED, clean, metric, cells_per_batch=limit)
        loop = brute_force(bridge, clean, which, patching.layer_pos_patch_setter, (2, 5))
        torch.testing.assert_close(made, loop, atol=1e-5, rtol=1e-5)
        assert made.std() > 1e-4


@PER_ATTENTION
def test_heads(kind):
    bridge = find(kind)
    clean, _ = caches(bridge)
    for which, name in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v")):
        n_heads = clean[name, 0].shape[2]
        by_pos = getattr(patching, f"get_act_patch_attn_head_{which}_by_pos")
        setter = patching.layer_pos_head_vector_patch_setter
        loop = brute_force(bridge, clean, name, setter, (2, 5, n_heads))
        made = by_pos(bridge, CORRUPTED, clean, metric)
        torch.testing.assert_close(made, loop, atol=1e-5, rtol=1e-5)
        all_pos = getattr(patching, f"get_act_patch_attn_head_{which}_all_pos")
        setter = patching.layer_head_vector_patch_setter
        loop = brute_force(bridge, clean, name, setter, (2, n_heads))
        made = all_pos(bridge, CORRUPTED, clean, metric)
        torch.testing.assert_close(made, loop, atol=1e-5, rtol=1e-5)


@PER_ATTENTION
def test_patterns(kind):
    bridge = find(kind)
    clean, _ = caches(bridge)
    n_heads = bridge.cfg.n_heads
    setters = {
        "all_pos": (patching.layer_head_pattern_patch_setter, (2, n_heads)),
        "by_pos": (patching.layer_head_pos_pattern_patch_setter, (2, n_heads, 5)),
        "dest_src_pos": (
            patching.layer_head_dest_src_pos_pattern_patch_setter, (2, n_heads, 5, 5)
        ),
    }  # fmt: skip
    for which, (setter, shape) in setters.items():
        made = getattr(patching, f"get_act_patch_attn_head_pattern_{which}")(
            bridge, CORRUPTED, clean, metric
        )
        loop = brute_force(bridge, clean, "pattern", setter, shape)
        loop = loop.transpose(1, 2) if which == "by_pos" else loop
        torch.testing.assert_close(made, loop, atol=1e-5, rtol=1e-5)


def test_every(llama):
    clean, _ = caches(llama)
    given = (llama, CORRUPTED, clean, metric)
    made = patching.get_act_patch_attn_head_all_pos_every(*given)
    assert made.shape == (5, 2, 4)
    torch.testing.assert_close(made[0], patching.get_act_patch_attn_head_out_all_pos(*given))
    keys = patching.get_act_patch_attn_head_k_all_pos(*given)
    assert keys.shape == (2, 2)
    torch.testing.assert_close(made[2], keys.repeat_interleave(2, dim=-1))
    made = patching.get_act_patch_attn_head_by_pos_every(*given)
    assert made.shape == (5, 2, 5, 4)
    torch.testing.assert_close(made[4], patching.get_act_patch_attn_head_pattern_by_pos(*given))
    made = patching.get_act_patch_block_every(*given)
    assert made.shape == (3, 2, 5)
    torch.testing.assert_close(made[2], patching.get_act_patch_mlp_out(*given))


def test_a_mask_is_heeded(gpt2):
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        _, clean = gpt2.run_with_cache(CLEAN, attention_mask=mask)
        made = patching.get_act_patch_attn_out(gpt2, CORRUPTED, clean, metric, attention_mask=mask)
        name = "blocks.1.hook_attn_out"

        def patch(value, hook):
            return patching.layer_pos_patch_setter(value, [1, 4], clean[name])

        alone = gpt2.run_with_hooks(CORRUPTED, fwd_hooks=[(name, patch)], attention_mask=mask)
    torch.testing.assert_close(made[1, 4], metric(alone), atol=1e-5, rtol=1e-5)


def test_metrics_by_sample_and_by_name(gpt2):
    clean, _ = caches(gpt2)
    metrics = {"a": lambda logits: logits[:, -1, 3], "b": lambda logits: logits[:, -1, 4]}
    given = (gpt2, CORRUPTED, clean)
    made = patching.get_act_patch_resid_pre(*given, metrics, reduce="none")
    assert made["a"].shape == (2, 5, 2)
    mean = patching.get_act_patch_resid_pre(*given, metrics["b"], reduce="mean")
    torch.testing.assert_close(made["b"].mean(-1), mean)


def test_a_data_frame_of_cells(gpt2, monkeypatch):
    import pandas

    clean, _ = caches(gpt2)
    frame = pandas.DataFrame({"layer": [1, 0, 1], "pos": [4, 2, 0]})
    setter = patching.layer_pos_patch_setter
    given = (gpt2, CORRUPTED, clean, metric, setter, "resid_pre")
    made = generic_activation_patch(*given, index_df=frame)
    grid, named = generic_activation_patch(*given, ("layer", "pos"), return_index_df=True)
    torch.testing.assert_close(made, grid[frame["layer"], frame["pos"]])
    assert list(named.columns) == ["layer", "pos"]
    assert len(named) == grid.numel()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pellucid-bridge"):
        generic_activation_patch(*given, ("layer", "pos"), return_index_df=True)


def test_a_patch_of_everything_is_the_clean_run(bridge):
    clean, _ = caches(bridge)

    def all_positions(corrupted, index, clean):
        return clean

    made = generic_activation_patch(
        bridge, CORRUPTED, clean, metric, all_positions, "resid_pre", ("layer",)
    )
    with torch.no_grad():
        expected = metric(bridge(CLEAN))
    torch.testing.assert_close(made, expected.expand(2), atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind(bridge, unchanged):
    clean, corrupted = caches(bridge)
    with unchanged(bridge.original_model):
        patching.get_act_patch_block_every(bridge, CORRUPTED, clean, metric)
        attribution_patch(bridge, CORRUPTED, clean, metric, "z", ("layer", "head"))
        edge_attribution_patch(bridge, CORRUPTED, clean, corrupted, metric)
    assert all(weight.grad is None for weight in bridge.parameters())


def test_bad_grids(gpt2):
    clean, _ = caches(gpt2)
    setter = patching.layer_pos_patch_setter
    given = (gpt2, CORRUPTED, clean, metric, setter)
    with pytest.raises(ValueError, match="unknown axis 'x'"):
        generic_activation_patch(*given, "resid_pre", ("layer", "x"))
    with pytest.raises(ValueError, match="once"):
        generic_activation_patch(*given, "resid_pre")
    with pytest.raises(ValueError, match="no axis of heads"):
        generic_activation_patch(*given, "resid_pre", ("layer", "head"))
    with pytest.raises(KeyError, match="resid_per"):
        generic_activation_patch(*given, "resid_per", ("layer", "pos"))
    with pytest.raises(ValueError, match="expected one number"):
        patching.get_act_patch_resid_pre(gpt2, CORRUPTED, clean, lambda logits: logits[0, 0])
    with pytest.raises(ValueError, match="cells_per_batch"):
        patching.get_act_patch_resid_pre(gpt2, CORRUPTED, clean, metric, cells_per_batch=0)
    with pytest.raises(ValueError, match="depends on the logits"):
        attribution_patch(gpt2, CORRUPTED, clean, lambda x: metric(x).item(), "z", ("layer",))


# Paths.


# A norm after attention divides what all heads write by one number, which the first of two runs
# changes and a direct path does not.
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in POST_NORMED])
@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_a_direct_path_is_a_path_with_all_else_frozen(kind, component):
    bridge = find(kind)
    clean, corrupted = caches(bridge)
    made = patching.get_act_patch_direct_path(
        bridge, CORRUPTED, clean, corrupted, metric, 0, 1, component
    )
    with torch.no_grad():
        baseline = metric(bridge(CORRUPTED))
        torch.testing.assert_close(made[0], baseline.expand_as(made[0]), atol=1e-5, rtol=1e-5)
        for head in range(made.shape[1]):
            logits = path_patch(
                bridge, CORRUPTED, clean, corrupted,
                senders=[("z", 0, 1)], receivers=[(component, 1, head)], freeze_mlps=True,
            )  # fmt: skip
            torch.testing.assert_close(made[1, head], metric(logits), atol=1e-4, rtol=1e-4)
    assert (made[1] - baseline).abs().max() > 1e-6


def test_all_direct_paths(llama):
    clean, corrupted = caches(llama)
    given = (llama, CORRUPTED, clean, corrupted, metric)
    made = patching.get_act_patch_direct_path_all_sources(*given)
    assert made.shape == (2, 4, 2, 4)
    torch.testing.assert_close(made[0, 2], patching.get_act_patch_direct_path(*given, 0, 2))


def test_bad_paths(llama):
    clean, corrupted = caches(llama)
    given = (llama, CORRUPTED, clean, corrupted, metric)
    with pytest.raises(ValueError, match="component"):
        patching.get_act_patch_direct_path(*given, 0, 0, "z")
    with pytest.raises(ValueError, match="no head 9"):
        patching.get_act_patch_direct_path(*given, 0, 9)
    with pytest.raises(ValueError, match="has no heads"):
        path_patch(*given[:-1], senders=[("mlp_out", 0, 1)], receivers=[("q", 1)])


# Gradients.

# Norms of transformers compute in single precision whatever the model's dtype.
STEP = 3e-3

PRECISE = {
    "gpt2": lambda: tiny_gpt2(dtype=torch.float64),
    "llama": lambda: tiny_llama(dtype=torch.float64),
}


@pytest.mark.parametrize("kind", PRECISE)
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("resid_pre", ("layer", "pos")),
        ("resid_mid", ("pos", "layer")),
        ("z", ("layer", "pos", "head")),
        ("k", ("layer", "head_index")),
        ("pattern", ("layer", "head", "dest_pos", "src_pos")),
    ],
)
def test_attribution_is_the_limit_of_patching(kind, name, axes):
    bridge = TransformerBridge(PRECISE[kind]())
    clean, _ = caches(bridge)
    made = attribution_patch(bridge, CORRUPTED, clean, metric, name, axes)
    places = {"layer": None, "pos": 1, "head": 2, "head_index": 2, "dest_pos": 2, "src_pos": 3}
    if name == "pattern":
        places["head"] = 1

    def nudge(value, index, clean, step):
        cut = [slice(None)] * value.ndim
        for axis, number in zip(axes, index, strict=True):
            if axis != "layer":
                cut[places[axis]] = number
        cut = tuple(cut)
        value[cut] += step * (clean[cut] - value[cut])
        return value

    ends = [
        generic_activation_patch(
            bridge, CORRUPTED, clean, metric, functools.partial(nudge, step=step), name, axes
        )
        for step in (STEP, -STEP)
    ]
    slopes = (ends[0] - ends[1]) / (2 * STEP)
    torch.testing.assert_close(made, slopes, atol=2e-4, rtol=2e-3, check_dtype=False)
    assert made.abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_the_limit_of_direct_paths(kind):
    bridge = find(kind, torch.float64)
    clean, corrupted = caches(bridge)
    edges = edge_attribution_patch(bridge, CORRUPTED, clean, corrupted, metric)
    sources = dict(zip(edges.sources, range(len(edges.sources)), strict=True))
    assert len(edges.top(5)) == 5
    difference = clean.get_head_results(0) - corrupted.get_head_results(0)
    table = bridge.hook_table()
    for target in ("a1.h1<q>", "a1.h0<k>", "a1.h0<v>", "m1", "m0", "logits"):
        layer = int(target[1]) if target != "logits" else None
        is_parallel = bridge.cfg.parallel_attn_mlp
        sees = not (target == "m0" and is_parallel)
        assert bool(edges.exists[sources["a0.h1"], edges.targets.index(target)]) == sees
        if target.startswith("a"):
            name, head = f"blocks.{layer}.attn.hook_{target[-2]}_input", int(target[4])
        else:
            name = "ln_final.hook_in" if layer is None else f"blocks.{layer}.hook_mlp_in"
            head = slice(None)
        if name not in table or not sees:
            continue

        def add(value, hook, head=head, step=STEP):
            value = value.clone()
            part = value[:, :, head] if value.ndim == 4 else value
            part += step * difference[..., 1, :].reshape(part.shape)
            return value

        with torch.no_grad():
            ends = [
                metric(
                    bridge.run_with_hooks(
                        CORRUPTED, fwd_hooks=[(name, functools.partial(add, step=step))]
                    )
                )
                for step in (STEP, -STEP)
            ]
        slope = (ends[0] - ends[1]) / (2 * STEP)
        torch.testing.assert_close(
            torch.tensor(edges.score("a0.h1", target)).double(), slope, atol=1e-4, rtol=1e-3
        )
